"""The comparison as a plot."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY, BLUE, LINE = "#6b6b6b", "#1f5fa8", "#b8b8b8"


def draw_comparison(content: dict[str, Any], path: Path) -> None:
    """Saves the plot of a comparison.

    content: what compare.json holds.

    Raises:
        ImportError: matplotlib is not installed.
    """
    build_figure(content).savefig(str(path), dpi=150)


def build_figure(content: dict[str, Any]) -> "Figure":
    """Draws each system's metric with its interval, and its gain over the best single modality."""
    from matplotlib.figure import Figure

    systems = content["systems"][::-1]
    figure = Figure(figsize=(10, 1.6 + 0.38 * len(systems)), layout="constrained")
    scores, gains = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(systems):
        colour = BLUE if len(row["modalities"]) > 1 else GREY
        draw_interval(scores, place, row, colour)
        if row["name"] != content["best_single"]:
            draw_interval(gains, place, row["gain"], colour)
    if content["majority"] is not None:
        scores.axvline(content["majority"], color=LINE, linestyle=":", zorder=0)
        scores.text(content["majority"], len(systems) - 0.45, " majority", color=GREY, fontsize=8)
    gains.axvline(0, color=LINE, zorder=0)
    scores.set_yticks(range(len(systems)), [row["name"] for row in systems])
    scores.set_ylim(-0.6, len(systems) - 0.2)
    scores.set_xlabel(content["metric"])
    gains.set_xlabel(f"gain over {content['best_single']}, the best single modality")
    for axes in (scores, gains):
        axes.spines[["top", "right"]].set_visible(False)
    title = f"Does fusion help? {content['verdict'].capitalize()} (bars: 95 % intervals)"
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return figure


def draw_interval(axes: Any, place: int, interval: dict[str, float], colour: str) -> None:
    """Draws a value and its interval in the row `place`."""
    axes.plot([interval["low"], interval["high"]], [place, place], color=colour, linewidth=2, solid_capstyle="round")
    axes.plot(interval["value"], place, "o", color=colour, markersize=6)
