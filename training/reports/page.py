"""The pages of reports: one file each, which loads nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

# the browser itself refuses whatever is not on the page
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
REPORT_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1.2rem; color: #1b1b1b }}
h1 {{ font-size: 1.6rem; margin: 0 0 .2rem }} h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem }}
h3 {{ font-size: .95rem; margin: 1.2rem 0 .5rem; color: #444 }}
.lead, .note {{ color: #555 }} .note {{ font-size: .87rem }}
table {{ border-collapse: collapse; margin: .4rem 0 }} th {{ text-align: left; font-weight: 600 }}
td, th {{ padding: .25rem .8rem; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }}
td.number {{ text-align: right; white-space: nowrap }} section {{ overflow-x: auto }}
figure {{ margin: 0 0 1rem }} figure img {{ max-width: 100% }}
.grown img {{ min-width: min(100%, 26rem); image-rendering: pixelated }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .8rem }}
.card {{ border: 1px solid #ddd; border-left: 4px solid #bbb; border-radius: .3rem; padding: .6rem .8rem }}
.card.right {{ border-left-color: #2a7d4f }} .card.wrong {{ border-left-color: #c8641e }}
.card p {{ margin: .25rem 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem }}
.card img {{ max-width: 100%; border-radius: .2rem }} .card audio, .card video {{ width: 100% }}
.name {{ color: #777; font-size: .78rem }} .answer {{ font-weight: 600 }}
.found {{ display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .4rem }}
.found .card {{ flex: 1 1 8rem; max-width: 11rem; padding: .35rem .45rem }} .found p {{ font-size: .78rem }}
.wide {{ grid-column: 1 / -1 }}
pre {{ white-space: pre-wrap; background: #f6f6f6; padding: .7rem; font-size: .8rem; overflow-x: auto }}
.error {{ background: #fdf1e7; padding: .5rem .8rem; border-left: 4px solid #c8641e }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{body}
</body>
</html>
"""


def render_report(content: Mapping[str, Any], figures: Mapping[str, tuple[str, str]]) -> str:
    """Returns the page of a run.

    content: what report.json holds; figures: for each a heading and its image as a data URL.
    """
    lead = f"{content['task'].replace('_', ' ').capitalize()}"
    if content["split"]:
        lead += f", measured on {content['rows']:,} rows of the split {escape(content['split'])}"
    parts = [render_errors(content["errors"]), section("Results", render_results(content["metrics"]))]
    parts += [
        section(heading, f'<figure><img src="{url}" alt="{escape(heading)}"></figure>')
        for heading, url in figures.values()
    ]
    if content["images"]:
        shown = f'<figure class="grown"><img src="{content["images"]["url"]}" alt="generated images"></figure>'
        parts.append(section(f"Generated images, {content['images']['name']}", shown))
    if content["modalities"]:
        parts.append(section("What each modality adds", render_markdown(content["modalities"])))
    for group in content["examples"]:
        if group["examples"]:
            parts.append(section(escape(group["heading"]), render_cards(group["examples"])))
    parts.append(section("The model", f"<pre>{escape(content['composition'])}</pre>") if content["composition"] else "")
    parts += [f'<p class="note">{escape(note)}</p>' for note in content["notes"]]
    return wrap_page(content["name"], lead, "\n".join(parts))


def wrap_page(title: str, lead: str, body: str) -> str:
    """Returns a whole page; the title is text, lead and body are HTML."""
    return REPORT_PAGE.format(policy=POLICY, title=escape(title), lead=lead, body=body)


def section(heading: str, body: str) -> str:
    """Returns a section of a page."""
    return f"<section>\n<h2>{heading}</h2>\n{body}\n</section>"


def render_errors(errors: Sequence[str]) -> str:
    """Returns what could not be made, so that nothing is missing in silence."""
    return "\n".join(f'<p class="error">{escape(error)}</p>' for error in errors)


def render_results(results: Mapping[str, Any]) -> str:
    """Returns the table of metrics by split, of the model and the baselines."""
    kinds = list(dict.fromkeys(kind for columns in results.values() for kind in columns))
    if not kinds:
        return '<p class="note">No validation or test split: nothing was measured.</p>'
    lines = [["split", "metric", *(kind.replace("_", " ") for kind in kinds)]]
    for split, columns in results.items():
        for name in columns["model"]:
            lines.append([split, name, *(format_number(columns.get(kind, {}).get(name)) for kind in kinds)])
    return render_lines(lines)


def render_lines(lines: Sequence[Sequence[str]]) -> str:
    """Returns a table; the first line is its head, and cells that are numbers stand right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in lines[0])
    body = "".join(f"<tr>{''.join(map(render_cell, line))}</tr>\n" for line in lines[1:])
    return f"<table>\n<tr>{head}</tr>\n{body}</table>"


def render_markdown(text: str) -> str:
    """Returns paragraphs and tables of Markdown as HTML."""
    parts = []
    for block in text.split("\n\n"):
        lines = [line.strip("|").split("|") for line in block.splitlines() if "---" not in line]
        cells = [[cell.strip() for cell in line] for line in lines]
        parts.append(render_lines(cells) if block.startswith("|") else f'<p class="note">{escape(block)}</p>')
    return "\n".join(parts)


def render_cell(text: str) -> str:
    """Returns a cell of a table."""
    return f'<td class="number">{escape(text)}</td>' if begins_as_number(text) else f"<td>{escape(text)}</td>"


def begins_as_number(text: str) -> bool:
    """Returns whether a cell begins as a number does."""
    return text.lstrip("+-")[:1].isdigit()


def format_number(value: Any) -> str:
    """Returns a metric as text; "-" for one that was not measured."""
    return f"{value:.4f}" if isinstance(value, (int, float)) else "-"


def render_cards(examples: Sequence[Mapping[str, Any]]) -> str:
    """Returns examples beside one another."""
    return f'<div class="grid">\n{"".join(map(render_card, examples))}\n</div>'


def render_card(example: Mapping[str, Any]) -> str:
    """Returns one example: its inputs, the answer and the truth."""
    verdict = {True: " right", False: " wrong", None: ""}[example.get("right")]
    parts = [f'<p class="name">row {example["row"]}</p>'] if "row" in example else []
    parts += [render_input(item) for item in example["inputs"]]
    if "answer" in example:
        sure = f" ({example['confidence']:.0%})" if "confidence" in example else ""
        given = f'<span class="answer">{escape(example["answer"])}</span>{sure}'
        parts.append(f'<p><span class="name">answer</span> {given}</p>')
    if "truth" in example and example.get("right") is not True:
        parts.append(f'<p><span class="name">truth</span> {escape(example["truth"])}</p>')
    if "note" in example:
        parts.append(f'<p class="name">{escape(example["note"])}</p>')
    if "found" in example:
        parts.append(f'<div class="found">{"".join(map(render_card, example["found"]))}</div>')
    wide = " wide" if "found" in example else ""
    return f'<div class="card{verdict}{wide}">{"".join(parts)}</div>\n'


def render_input(item: Mapping[str, str]) -> str:
    """Returns an input: text, picture, player, or a note."""
    name = escape(item["name"], quote=True)
    if "image" in item:
        return f'<p class="name">{name}</p><img src="{item["image"]}" alt="{name}">'
    if "audio" in item:
        return f'<p class="name">{name}</p><audio controls preload="none" src="{item["audio"]}"></audio>'
    if "video" in item:
        return f'<p class="name">{name}</p><video controls preload="metadata" src="{item["video"]}"></video>'
    return f'<p><span class="name">{name}</span> {escape(item.get("text") or item.get("note", ""))}</p>'
