"""Reports, which are texts with Markdown tables, as HTML."""

from collections.abc import Sequence
from html import escape
from itertools import groupby


def render_report_text(text: str) -> str:
    """Returns a report as HTML: its tables as tables, its other lines as paragraphs."""
    parts = []
    for is_table, lines in groupby(text.splitlines(), key=lambda line: line.startswith("|")):
        if is_table:
            parts.append(render_table_lines(list(lines)))
        else:
            parts += [f"<p>{escape(line)}</p>" for line in lines if line.strip()]
    return "\n".join(parts)


def render_table_lines(lines: Sequence[str]) -> str:
    """Returns the lines of a Markdown table, the first of which is its head, as an HTML table."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    rows = [row for row in rows if set("".join(row)) - set("-: ")]  # without the line below the head
    head, *body = [
        "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row)
        for row, kind in zip(rows, ["th", *["td"] * (len(rows) - 1)], strict=True)
    ]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"
