"""The frame of a page that is one file and loads nothing else: its head, its style and, if it has one, its script."""

from html import escape

# the browser itself refuses whatever is not on the page
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
SCRIPT_POLICY = "; script-src 'unsafe-inline'"  # of a page with a script of its own
FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1.2rem; color: #1b1b1b }}
table {{ border-collapse: collapse; margin: .4rem 0 }} th {{ text-align: left; font-weight: 600 }}
td.number {{ text-align: right; white-space: nowrap }} .note {{ color: #555; font-size: .87rem }}
img {{ max-width: 100% }}
{style}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
{script}</body>
</html>
"""


def frame_page(title: str, body: str, style: str, script: str = "") -> str:
    """Returns a whole page; the title is text, the body is HTML, the style adds to that of all pages."""
    return FRAME.format(
        policy=POLICY + (SCRIPT_POLICY if script else ""),
        title=escape(title),
        style=style.strip(),
        body=body,
        script=f"<script>\n{script.strip()}\n</script>\n" if script else "",
    )
