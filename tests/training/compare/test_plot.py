"""What the plot of a comparison shows: a point and a bar for each system, and lines to compare them with."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plait.training.compare.plot import BLUE, GREY, build_figure, draw_comparison

pytest.importorskip("matplotlib")


def build_system(name: str, modalities: list[str], value: float, gain: float) -> dict[str, Any]:
    return {
        "name": name,
        "modalities": modalities,
        "value": value,
        "low": value - 0.1,
        "high": value + 0.2,
        "gain": {"value": gain, "low": gain - 0.3, "high": gain + 0.4},
    }


CONTENT = {
    "systems": [
        build_system("text", ["text"], 0.5, 0.0),
        build_system("image", ["image"], 0.4, -0.1),
        build_system("late", ["text", "image"], 0.7, 0.2),
    ],
    "best_single": "text",
    "majority": 0.25,
    "metric": "accuracy",
    "verdict": "yes, it does",
}


def read_lines(axes: Any) -> list[tuple[list[float], list[float], str]]:
    return [
        ([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()], line.get_color())
        for line in axes.get_lines()
    ]


def test_systems_stand_from_top_to_bottom_with_their_intervals() -> None:
    figure = build_figure(CONTENT)
    scores, gains = figure.axes
    assert figure.get_size_inches() == pytest.approx([10, 1.6 + 3 * 0.38])
    drawn = read_lines(scores)
    expected = []
    for place, (value, colour) in enumerate([(0.7, BLUE), (0.4, GREY), (0.5, GREY)]):
        expected.append((pytest.approx([value - 0.1, value + 0.2]), [place, place], colour))
        expected.append(([value], [place], colour))
    assert drawn[:6] == expected and drawn[6][0] == [0.25, 0.25] and len(drawn) == 7
    assert [tick.get_text() for tick in scores.get_yticklabels()] == ["late", "image", "text"]
    assert list(scores.get_yticks()) == [0, 1, 2] and scores.get_ylim() == (-0.6, 2.8) == gains.get_ylim()
    drawn = read_lines(gains)  # the best single modality has no gain over itself
    assert [line[1][0] for line in drawn[:-1]] == [0, 0, 1, 1] and drawn[-1][0] == [0, 0]
    assert drawn[0][0] == pytest.approx([-0.1, 0.6]) and drawn[3][0] == [-0.1]


def test_the_plot_says_what_it_shows() -> None:
    figure = build_figure(CONTENT)
    scores, gains = figure.axes
    assert scores.get_xlabel() == "accuracy"
    assert gains.get_xlabel() == "gain over text, the best single modality"
    assert figure.get_suptitle() == "Does fusion help? Yes, it does (bars: 95 % intervals)"
    (majority,) = scores.texts
    assert majority.get_text() == " majority" and majority.get_position() == (0.25, 3 - 0.45)
    line, centre = scores.get_lines()[6], gains.get_lines()[-1]
    assert line.get_linestyle() == ":" and line.get_zorder() == centre.get_zorder() == 0
    assert line.get_color() == centre.get_color() == "#b8b8b8"
    for axes in (scores, gains):
        assert not axes.spines["top"].get_visible() and not axes.spines["right"].get_visible()
        assert axes.spines["left"].get_visible()


def test_a_regression_has_no_majority(tmp_path: Path) -> None:
    content = {**CONTENT, "majority": None}
    scores, _ = build_figure(content).axes
    assert len(scores.get_lines()) == 6 and not scores.texts
    draw_comparison(content, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size == (1500, 411)
