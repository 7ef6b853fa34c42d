"""report.html of a comparison: the systems side by side, on one page that loads nothing else."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from ..explanations.pages.report_table import render_lines, render_markdown
from ..recipes.schema import Recipe
from ..reports.page import section, wrap_page
from ..reports.writing import to_png_url
from .report import PLOT_FILE, format_difference, render_ablation, render_answer, render_notes, render_table


def render_comparison(content: dict[str, Any], recipe: Recipe, folder: Path, command: str) -> str:
    """Returns the page of a comparison, with its plot if the folder has one."""
    lead = f"{recipe.task.replace('_', ' ').capitalize()}, {content['rows']:,} test rows: does fusion help?"
    answer = render_answer(content).replace("**", "")
    parts = [f"<p>{escape(answer)}</p>", section("Systems", render_markdown(render_table(content)))]
    if (folder / PLOT_FILE).is_file():
        parts.append(f'<figure><img src="{to_png_url(folder / PLOT_FILE)}" alt="systems with intervals"></figure>')
    if content.get("pairs"):
        parts.append(section(f"Paired differences in {escape(content['metric'])}", render_pairs(content)))
    parts += [section(heading, render_markdown(text)) for heading, text in split_sections(render_ablation(content))]
    parts.append(f'<p class="note">{escape(render_notes(content))}</p>')
    parts.append(section("How to repeat it", f"<pre>{escape(command)}</pre>"))
    return wrap_page(folder.name, escape(lead), "\n".join(parts))


def render_pairs(content: dict[str, Any]) -> str:
    """Returns the table of by how much the system of a row is better than that of a column, with intervals."""
    names = list(content["pairs"])
    lines = [["better by", *(f"than {name}" for name in names)]]
    for name, others in content["pairs"].items():
        lines.append([name, *("-" if other == name else format_difference(others[other]) for other in names)])
    return render_lines(lines)


def split_sections(text: str) -> Iterator[tuple[str, str]]:
    """Yields the heading and the text of each section of Markdown."""
    for part in text.split("## ")[1:]:
        heading, _, body = part.partition("\n")
        yield escape(heading), body.strip()
