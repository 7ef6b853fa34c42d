"""The pages of reports: one file each, which loads nothing else."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..explanations.pages.frame import frame_page
from ..explanations.pages.report_table import render_lines, render_markdown

STYLE_OF_REPORTS = """
body { max-width: 66rem }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
h3 { font-size: .95rem; margin: 1.2rem 0 .5rem; color: #444 }
.lead { color: #555 }
td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
section { overflow-x: auto } figure { margin: 0 0 1rem }
.grown img { min-width: min(100%, 26rem); image-rendering: pixelated }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .8rem }
.card { border: 1px solid #ddd; border-left: 4px solid #bbb; border-radius: .3rem; padding: .6rem .8rem }
.card.right { border-left-color: #2a7d4f } .card.wrong { border-left-color: #c8641e }
.card p { margin: .25rem 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem }
.card img { border-radius: .2rem } .card audio, .card video { width: 100% }
.name { color: #777; font-size: .78rem } .answer { font-weight: 600 }
.found { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .4rem }
.found .card { flex: 1 1 8rem; max-width: 11rem; padding: .35rem .45rem } .found p { font-size: .78rem }
.wide { grid-column: 1 / -1 }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .7rem; font-size: .8rem; overflow-x: auto }
.error { background: #fdf1e7; padding: .5rem .8rem; border-left: 4px solid #c8641e }
"""


def render_report(content: Mapping[str, Any], figures: Mapping[str, tuple[str, str]]) -> str:
    """Returns the page of a run.

    content: what report.json holds; figures: for each a heading and its image as a data URL.
    """
    lead = f"{content['task'].replace('_', ' ').capitalize()}"
    if content["split"]:
        lead += f", measured on {content['rows']:,} rows of the split {escape(content['split'])}"
    parts = [render_errors(content["errors"]), section("Results", render_results(content["metrics"]))]
    parts.append(render_errors(content.get("cautions", ())))  # none in reports of earlier versions
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
    return frame_page(title, f'<p class="lead">{lead}</p>\n{body}', STYLE_OF_REPORTS)


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
    if "before" in example:
        parts.append(f'<p><span class="name">before training</span> {escape(example["before"])}</p>')
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
