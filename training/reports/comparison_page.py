"""The page that compares two models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...configuration.messages import to_one_line
from ..explanations.pages.report_table import render_lines
from ..storage.atomic import replace_file
from .comparison import REPORT_RESAMPLES, MetricComparison, format_comparison
from .figures import CHART_BLUE, CHART_GREY, CHART_LINE, CHART_ORANGE, new_figure
from .inputs import to_url
from .page import render_errors, section, wrap_page
from .writing import NO_MATPLOTLIB, REPORT_DPI


def save_comparison(
    file: Path, found: Sequence[MetricComparison], names: tuple[str, str], trainings: tuple[int, int]
) -> None:
    """Writes the page of a comparison: the table, the differences as a figure, and how they were measured."""
    errors: list[str] = []
    parts = [section("Metrics on the same rows", render_lines(format_comparison(found, *names)))]
    try:
        picture = f'<figure><img src="{draw_differences(found, names)}" alt="paired differences"></figure>'
        parts.append(section("Paired differences", picture))
    except Exception as error:  # the table must not be lost with its figure
        missing = isinstance(error, ModuleNotFoundError) and error.name == "matplotlib"
        errors.append(NO_MATPLOTLIB if missing else f"the figure could not be drawn: {to_one_line(error)}")
    parts.append(f'<p class="note">{describe_intervals(trainings)}</p>')
    body = "\n".join([render_errors(errors), *parts])
    page = wrap_page(f"{names[0]} and {names[1]}", f"{found[0].rows:,} rows, paired", body)
    with replace_file(file) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def describe_intervals(trainings: tuple[int, int]) -> str:
    """Returns how the intervals were computed."""
    seeds = f" and of the trainings ({trainings[0]} and {trainings[1]})" if max(trainings) > 1 else ""
    return (
        f"In brackets: 95 % percentile intervals over {REPORT_RESAMPLES:,} bootstrap resamples of the rows{seeds}, the "
        "same for both models, so that differences are paired."
    )


def draw_differences(found: Sequence[MetricComparison], names: tuple[str, str]) -> str:
    """Draws the difference of each metric with its interval; returns a data URL."""
    from io import BytesIO

    figure, axes = new_figure(4.6 * min(len(found), 3), 1.9, min(len(found), 3))
    for one, metric in zip(axes, found, strict=False):
        draw_difference(one, metric, names)
    file = BytesIO()
    figure.savefig(file, dpi=REPORT_DPI, format="png")
    return to_url(file.getvalue(), "image/png")


def draw_difference(axes: Any, metric: MetricComparison, names: tuple[str, str]) -> None:
    """Draws one difference beside 0."""
    low, high = metric.difference.low, metric.difference.high
    colour = CHART_GREY if low <= 0 <= high else CHART_BLUE
    axes.axvline(0, color=CHART_ORANGE, linewidth=1)
    axes.plot([low, high], [0, 0], color=colour, linewidth=3, solid_capstyle="round")
    axes.plot(metric.difference.value, 0, "o", color=colour, markersize=8)
    axes.set(ylim=(-1, 1), xlabel=f"{names[0]} minus {names[1]}")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=CHART_LINE, linewidth=0.6)
    axes.set_title(f"{metric.name}, {metric.rows:,} rows", loc="left", fontsize=10)
