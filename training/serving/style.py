"""The look of a page: its style sheet, and pieces of HTML that several answers share."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

STYLE = """<style>
.plait-head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem .9rem; padding: .2rem 0 }
.plait-head h1 { font-size: 1.45rem; margin: 0; font-weight: 600; overflow-wrap: anywhere }
.plait-head p { margin: 0; color: var(--body-text-color-subdued) }
.plait-chips { display: flex; flex-wrap: wrap; gap: .4rem; margin: .35rem 0 .1rem }
.plait-chip { border: 1px solid var(--border-color-primary); border-radius: 1rem; padding: .05rem .7rem;
  font-size: .85rem; background: var(--background-fill-secondary) }
.plait-chip b { font-variant-numeric: tabular-nums }
.plait-chip.on { background: var(--color-accent-soft); border-color: var(--color-accent) }
.plait-value { font-size: 2.2rem; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.3 }
.plait-note { color: var(--body-text-color-subdued); font-size: .85rem; margin: .2rem 0 }
.plait-bars { display: grid; grid-template-columns: minmax(4rem, max-content) 1fr max-content; gap: .3rem .7rem;
  align-items: center; margin: .3rem 0 .9rem }
.plait-bars .bar { background: var(--background-fill-secondary); border-radius: .3rem; height: .8rem; overflow: hidden }
.plait-bars .bar i { display: block; height: 100%; border-radius: .3rem; background: var(--color-accent) }
.plait-bars .figure { font-variant-numeric: tabular-nums; text-align: right }
.plait-bars .name { overflow-wrap: anywhere }
.plait-explained .word { padding: .1rem .2rem; border-radius: .2rem; line-height: 1.9 }
.plait-explained .value { color: var(--body-text-color-subdued); font-size: .85rem }
.plait-explained img { display: inline-block; max-width: 48%; min-width: 12rem; margin: 0 .5rem .5rem 0;
  vertical-align: top }
.plait-explained svg { max-width: 100%; overflow: visible }
.plait-explained h2 { font-size: 1.1rem; margin: .2rem 0 }
.plait-explained h3 { font-size: .9rem; margin: .8rem 0 .2rem }
</style>"""


class Bar(NamedTuple):
    """A line of a chart: a name, how much of the line is filled (0 .. 1), and the figure at its end."""

    name: str
    share: float
    figure: str


def render_bars(bars: Sequence[Bar], heading: str = "") -> str:
    """Returns a chart of bars as HTML."""
    head = f"<b>{escape(heading)}</b>" if heading else ""
    lines = [
        f'<span class="name">{escape(bar.name)}</span>'
        f'<span class="bar"><i style="width:{100 * min(max(bar.share, 0), 1):.1f}%"></i></span>'
        f'<span class="figure">{escape(bar.figure)}</span>'
        for bar in bars
    ]
    return f'{head}<div class="plait-bars">{"".join(lines)}</div>'


def render_value(value: str, name: str, note: str = "") -> str:
    """Returns a number in large type, with its name over it and a note below."""
    below = f'<p class="plait-note">{escape(note)}</p>' if note else ""
    return f'<p class="plait-note">{escape(name)}</p><div class="plait-value">{escape(value)}</div>{below}'


def render_chips(texts: Sequence[str], chosen: bool = False) -> str:
    """Returns short texts as chips; those of an answer are highlighted."""
    style = "plait-chip on" if chosen else "plait-chip"
    return f'<div class="plait-chips">{"".join(f"<span class={style!r}>{escape(text)}</span>" for text in texts)}</div>'
