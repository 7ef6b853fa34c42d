"""explanation.html: all explanations of a run on one page that loads nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ....processing.images import read_image
from ...data.media import READ_ERRORS, Row, list_present
from ..results import Attribution, Explanation, RowExplanation
from .colours import add_scale, draw_map, draw_overlay, enlarge, find_full_colour, to_css, to_data_url
from .frame import frame_page
from .report_table import render_markdown

LINE_WIDTH, LINE_DRAWN = 640, 90  # pixels of a timeline

STYLE_OF_EXPLANATIONS = """
body { max-width: 60rem }
section { border-top: 1px solid #ccc; padding: .8rem 0 }
h2 { font-size: 1rem; margin: 0 } h3 { font-size: .85rem; margin: .6rem 0 .2rem; color: #555; font-weight: 600 }
.word { padding: .1rem .15rem; border-radius: .2rem } .value { color: #555; font-size: .85rem }
img { margin-right: .4rem; image-rendering: pixelated; vertical-align: top }
td, th { padding: .15rem .6rem; border: 1px solid #ddd } th { background: #f5f5f5 }
input { font: inherit; padding: .3rem .5rem; width: 100%; box-sizing: border-box }
"""
SEARCH_FIELD = """<input id="search" type="search" placeholder="search rows" aria-label="search rows">
<p class="value" id="count"></p>"""
SEARCH_SCRIPT = r"""
const field = document.getElementById("search"), sections = [...document.querySelectorAll("section")];
function search() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const section of sections) {
    section.hidden = !words.every(word => section.dataset.search.includes(word));
    shown += !section.hidden;
  }
  document.getElementById("count").textContent = shown + " of " + sections.length + " rows";
}
field.addEventListener("input", search);
search();
"""


def render_explanations(
    rows: Sequence[Row],
    explanation: Explanation,
    title: str,
    unit: str = "nats",
    reports: Mapping[str, str] | None = None,
) -> str:
    """Returns the page of the explanations of these rows.

    reports: further texts by their heading, such as the table of the check; their Markdown tables become tables.
    """
    texts = [f"<h2>{escape(name)}</h2>\n{render_markdown(text)}" for name, text in (reports or {}).items()]
    sections = [
        render_row(number, row, found, unit) for number, (row, found) in enumerate(zip(rows, explanation, strict=True))
    ]
    body = [f"<p>{describe_method(explanation, unit)}</p>", *texts, SEARCH_FIELD, *sections]
    return frame_page(title, "\n".join(body), STYLE_OF_EXPLANATIONS, SEARCH_SCRIPT)


def describe_method(explanation: Explanation, unit: str) -> str:
    """Returns one sentence on the method, its baselines and the colours."""
    shown = {found.modality for row in explanation for found in row.attributions.values()}
    given = ", ".join(f"{name}: {value}" for name, value in explanation.baselines.items() if name in shown)
    baselines = f" with the baselines {escape(given)}" if given else ""
    return (
        f"Method {escape(explanation.method)}{baselines}. Orange adds to the score, purple takes from it; values in "
        f"{escape(unit)}."
    )


def render_row(number: int, row: Row, found: RowExplanation, unit: str) -> str:
    """Returns the section of one row; its text and its target can be searched."""
    texts = [str(value) for value in row.values() if isinstance(value, str)]
    words = escape(" ".join([f"row {number}", found.target, *texts]).lower(), quote=True)
    heading = f"<h2>row {number}: {escape(found.target)}</h2>"
    return f'<section data-search="{words}">\n{heading}\n{render_attributions(row, found, unit)}\n</section>'


def render_attributions(row: Row, found: RowExplanation, unit: str) -> str:
    """Returns the scores of one row, and what each of its inputs adds to them."""
    score, baseline = (round(value, 3) + 0.0 for value in (found.score, found.baseline_score))  # no -0.000
    scores = f"score {score:.3f}, of the baseline {baseline:.3f} {unit}"
    parts = [f'<p class="value">{escape(scores)}</p>']
    for name, attribution in found.attributions.items():
        adds_up = found.completeness_error is not None  # what occlusion takes away overlaps: its sum is no amount
        total = f", {attribution.total:+.3f} {escape(unit)} in all" if adds_up else ""
        parts += [f"<h3>{escape(name)}{total}</h3>"]
        parts.append(RENDERERS[attribution.modality](row, name, attribution, unit))
    return "\n".join(parts)


def render_words(row: Row, name: str, attribution: Attribution, unit: str) -> str:
    """Returns the words, each on the ground of its value."""
    scale = find_full_colour(attribution.values)
    spans = [
        f'<span class="word" style="{to_css(value, scale)}" title="{value:+.4f}">{escape(word)}</span>'
        for word, value in zip(attribution.words or [], attribution.values.tolist(), strict=True)
    ]
    return f'<p>{" ".join(spans)} <span class="value">full colour: {scale:.2g} {escape(unit)}</span></p>'


def render_image(row: Row, name: str, attribution: Attribution, unit: str) -> str:
    """Returns the image's map over the image, with its scale, beside the image."""
    scale, image = find_full_colour(attribution.values), find_image(row, name)
    if image is None or (image.height, image.width) != attribution.values.shape:
        return render_picture(add_scale(draw_map(attribution.values, scale), scale, unit), name)
    overlay = add_scale(draw_overlay(image, attribution.values, scale), scale, unit)
    plain = enlarge(image.convert("RGB"))
    return render_picture(overlay, f"{name}: what adds to the score") + render_picture(plain, name)


def find_image(row: Row, name: str) -> Any:
    """Returns the row's image that an attribution is of ("image", or "image.1" for its second one); None for one that
    cannot be read."""
    number = int(name.rpartition(".")[2]) if name.rpartition(".")[2].isdigit() else 0
    items = list_present(row, name.partition(".")[0])
    try:
        return read_image(items[number]) if number < len(items) else None
    except READ_ERRORS:
        return None


def render_picture(image: Any, text: str) -> str:
    """Returns the tag of an image whose content is on the page."""
    return f'<img src="{to_data_url(image)}" alt="{escape(text, quote=True)}">'


def render_audio(row: Row, name: str, attribution: Attribution, unit: str) -> str:
    """Returns the line of values over time, and the map of frequencies below it."""
    line = render_line(attribution, unit, "seconds")
    if attribution.maps is None:
        return line
    scale = find_full_colour(attribution.maps)
    return line + render_picture(
        draw_map(attribution.maps[::-1], scale), f"{name}: frequencies, the lowest at the foot"
    )


def render_video(row: Row, name: str, attribution: Attribution, unit: str) -> str:
    """Returns the line of values over the frames, and the frames' maps."""
    line = render_line(attribution, unit, "seconds or frames")
    if attribution.maps is None:
        return line
    scale = find_full_colour(attribution.maps)
    frames = [
        render_picture(draw_map(frame, scale), f"frame {number}") for number, frame in enumerate(attribution.maps)
    ]
    return line + "".join(frames)


def render_line(attribution: Attribution, unit: str, axis: str) -> str:
    """Returns an SVG of bars over time: up adds to the score, down takes from it."""
    values, scale = attribution.values, find_full_colour(attribution.values)
    edges = find_edges(attribution)
    span = max(float(edges[-1] - edges[0]), 1e-9)
    places = (np.asarray(edges, dtype=float) - edges[0]) / span * LINE_WIDTH
    middle, bars = LINE_DRAWN / 2, []
    for first, last, value in zip(places[:-1], places[1:], values.tolist(), strict=True):
        height = min(abs(value) / scale, 1) * (middle - 2)
        top, style = (middle - height if value > 0 else middle), to_css(value, scale).partition(";")[0]
        fill = style.removeprefix("background:")
        bars.append(
            f'<rect x="{first:.1f}" y="{top:.1f}" width="{max(last - first - 0.5, 0.5):.1f}" height="{height:.1f}" '
            f'fill="{fill}"><title>{value:+.4f}</title></rect>'
        )
    ends = f'<text x="0" y="{LINE_DRAWN + 12}">{edges[0]:.4g}</text>'
    ends += f'<text x="{LINE_WIDTH}" y="{LINE_DRAWN + 12}" text-anchor="end">{edges[-1]:.4g} {axis}</text>'
    note = f'<p class="value">full height: {scale:.2g} {escape(unit)}</p>'
    return (
        f'<svg width="{LINE_WIDTH}" height="{LINE_DRAWN + 16}" font-size="11" role="img">{"".join(bars)}'
        f'<line x1="0" x2="{LINE_WIDTH}" y1="{middle}" y2="{middle}" stroke="#888"/>{ends}</svg>{note}'
    )


def find_edges(attribution: Attribution) -> np.ndarray:
    """Returns (values + 1,) edges of the segments; frames last until the next one."""
    count = len(attribution.values)
    times = (
        np.arange(count + 1, dtype=float) if attribution.times is None else np.asarray(attribution.times, dtype=float)
    )
    if len(times) == count + 1:
        return times
    step = float(times[-1] - times[0]) / max(count - 1, 1) or 1.0
    return np.append(times, times[-1] + step)


def render_columns(row: Row, name: str, attribution: Attribution, unit: str) -> str:
    """Returns a table of the columns, the largest value first."""
    scale = find_full_colour(attribution.values)
    names, values = attribution.columns or [], attribution.values.tolist()
    lines = [
        f"<tr><td>{escape(column)}</td><td>{escape(str(row.get(column, '')))}</td>"
        f'<td style="{to_css(value, scale)}">{value:+.4f}</td></tr>'
        for column, value in sorted(zip(names, values, strict=True), key=lambda pair: -abs(pair[1]))
    ]
    head = f"<tr><th>column</th><th>cell</th><th>{escape(unit)}</th></tr>"
    return f"<table>{head}{''.join(lines)}</table>"


RENDERERS = {
    "text": render_words,
    "image": render_image,
    "audio": render_audio,
    "video": render_video,
    "table": render_columns,
}
