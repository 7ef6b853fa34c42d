"""Reports, which are texts with Markdown tables, as HTML."""

from collections.abc import Sequence
from html import escape
from itertools import groupby


def render_markdown(text: str) -> str:
    """Returns a report as HTML: its tables as tables, its other lines as paragraphs."""
    parts = []
    for is_table, lines in groupby(text.splitlines(), key=lambda line: line.startswith("|")):
        if is_table:
            cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
            # without the line below the head
            parts.append(render_lines([row for row in cells if set("".join(row)) - set("-: ")]))
        else:
            parts += [f'<p class="note">{escape(line)}</p>' for line in lines if line.strip()]
    return "\n".join(parts)


def render_lines(lines: Sequence[Sequence[str]]) -> str:
    """Returns a table; the first line is its head, and cells that are numbers stand right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in lines[0])
    body = "".join(f"<tr>{''.join(map(render_cell, line))}</tr>\n" for line in lines[1:])
    return f"<table>\n<tr>{head}</tr>\n{body}</table>"


def render_cell(text: str) -> str:
    """Returns a cell of a table."""
    return f'<td class="number">{escape(text)}</td>' if begins_as_number(text) else f"<td>{escape(text)}</td>"


def begins_as_number(text: str) -> bool:
    """Returns whether a cell begins as a number does."""
    return text.lstrip("+-")[:1].isdigit()
