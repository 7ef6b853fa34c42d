"""Checks of explanations whose answers are known: the score is how dark one box of the image is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from plait.training.data.media import Row
from plait.training.explanations.checking.check_report import CheckReport, MethodCheck
from plait.training.explanations.checking.checks import CheckSetting, add_noise, check_on_rows, choose_replacements
from plait.training.explanations.checking.removal import (
    build_removable_parts,
    choose_replacement,
    label_cells,
    order_parts,
)
from plait.training.explanations.results import Attribution, Explanation, RowExplanation
from plait.training.metrics.bootstrap import Interval

SIDE, BOX = 16, (4, 8, 8, 12)  # left, top, right, bottom


class Darkness(nn.Module):
    """How dark the box is, times a weight that can be redrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, 4)


def make_rows(count: int = 12) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        pixels = np.full((SIDE, SIDE, 3), 250, dtype=np.uint8)
        pixels[8:12, 4:8] = generator.integers(0, 60)
        pixels[0:4, 10:14] = generator.integers(0, 60)  # as striking, and without effect
        rows.append({"image": Image.fromarray(pixels)})
    return rows


def read_darkness(row: Row) -> np.ndarray:
    return 1 - np.asarray(row["image"], dtype=float).mean(-1) / 255


def score(rows: Sequence[Row], numbers: Sequence[int]) -> np.ndarray:
    return np.array([read_darkness(row)[8:12, 4:8].mean() for row in rows])


def build_setting(model: Darkness, rows: list[dict[str, Any]]) -> CheckSetting:
    first = model.classifier.weight.detach().clone()

    def explain(method: str, chosen: Sequence[Row]) -> Explanation:
        found = []
        for number, row in enumerate(chosen):
            light = read_darkness(row)
            own = np.zeros_like(light)
            own[8:12, 4:8] = light[8:12, 4:8] / 16
            if not torch.equal(model.classifier.weight, first):
                own = np.random.default_rng(number).standard_normal(light.shape)
            values = {"true": own, "image": light, "noise": np.random.default_rng(number + 99).random(light.shape)}
            attribution = Attribution("image", values[method])
            error = {"true": 0.0, "image": 5.0, "noise": None}[method]
            found.append(RowExplanation("dark", float(own.sum()), 0.0, {"image": attribution}, error))
        return Explanation(found, method, {"image": "noise"})

    return CheckSetting(rows, rows, [[BOX]] * len(rows), score, explain, 8, 16, 0)


@pytest.fixture(scope="module")
def report() -> CheckReport:
    torch.manual_seed(0)
    model, rows = Darkness(), make_rows()
    setting = build_setting(model, rows)
    explanations = {method: setting.explain(method, rows) for method in ("true", "image", "noise")}
    return check_on_rows(model, setting, explanations)  # pyright: ignore[reportArgumentType]


def test_the_true_explanation_is_believed(report: CheckReport) -> None:
    true = report.checks[0]
    assert true.above_random is not None and true.above_random.low > 0.3
    assert true.oracle is not None and true.above_random.value == pytest.approx(true.oracle.value, abs=0.05)
    assert true.pointing == (1, 1, 1) or (true.pointing is not None and true.pointing.value == 1)
    assert abs(true.redrawn["head"].value) < 0.3 and true.gap == 0  # pyright: ignore[reportOptionalMemberAccess]
    assert true.list_doubts() == [] and report.best == "true" and report.best_arguments == {"method": "true"}


def test_one_that_shows_the_image_is_doubted(report: CheckReport) -> None:
    image = report.checks[1]
    assert image.redrawn["head"].value == pytest.approx(1)  # pyright: ignore[reportOptionalMemberAccess]
    assert "does not depend on the weights" in image.list_doubts() and "values do not add up" in image.list_doubts()


def test_one_of_noise_is_doubted(report: CheckReport) -> None:
    noise = report.checks[2]
    assert noise.above_random is not None and noise.above_random.low <= 0 < noise.above_random.high
    assert noise.list_doubts()[0] == "no better than random" and noise.gap is None


def test_the_table_says_which_can_be_believed(report: CheckReport) -> None:
    lines = report.format_table().splitlines()
    assert lines[2].startswith("| true | image | border |") and lines[2].endswith("| yes |")
    assert "no better than random" in lines[4] and "12 rows; best believed: true." in report.format_table()
    assert report.to_dict()["best"] == "true" and report.to_dict()["checks"][0]["doubts"] == []


def test_without_a_believed_method_there_is_no_best() -> None:
    check = MethodCheck("a/rows", "image", "rows", "border", Interval(0.1, -0.1, 0.3), None, None)
    assert CheckReport([check], 3).best is None and CheckReport([check], 3).best_arguments == {}
    assert "none of these methods can be believed" in CheckReport([check], 3).format_table()
    good = MethodCheck("b/rows", "image", "rows", "border", Interval(0.2, 0.1, 0.3), None, None)
    assert CheckReport([check, good], 3).best_arguments == {"method": "b", "baseline": "rows"}


def test_the_test_never_has_the_baseline_of_a_method() -> None:
    for modality, used, expected in (
        ("image", ["noise"], "border"),
        ("image", ["border", "rows"], "mean"),
        ("text", ["removed"], "rows"),
        ("audio", ["zero"], "rows"),
        ("audio", ["noise"], "silence"),
    ):
        assert choose_replacement(modality, used) == expected
    rows = [RowExplanation("a", 0.0, 0.0, {"image.1": Attribution("image", np.zeros((2, 2)))})]
    assert choose_replacements([Explanation(rows, "m", {"image": "border"})]) == {"image": "rows"}


def test_parts_of_an_image_are_its_cells() -> None:
    row = make_rows(1)[0]
    values = np.arange(SIDE * SIDE, dtype=float).reshape(SIDE, SIDE)
    parts = build_removable_parts(row, "image", Attribution("image", values), "border", {})
    assert parts.values.shape == (64,) and parts.values.sum() == values.sum()
    every, none = np.ones(64, dtype=bool), np.zeros(64, dtype=bool)
    assert np.array_equal(np.asarray(parts.build(every)["image"]), np.asarray(row["image"]))
    assert set(np.asarray(parts.build(none)["image"]).ravel().tolist()) == {250}
    first = np.asarray(parts.build(np.arange(64) == 34)["image"])  # the cell of the box's upper left corner
    kept = label_cells(SIDE, SIDE) == 34
    assert (first[kept] < 60).all() and (first[~kept] == 250).all()


def test_parts_of_a_text_are_its_words() -> None:
    row = {"text": "What, exactly,  is it?", "label": 1}
    spans = [(0, 4), (6, 13), (16, 18), (19, 21)]
    attribution = Attribution("text", np.arange(4.0), words=["What", "exactly", "is", "it"], spans=spans)
    build = build_removable_parts(row, "text", attribution, "removed", {}).build
    assert build(np.ones(4, dtype=bool))["text"] == "What, exactly, is it?"
    assert build(np.array([True, False, False, True])) == {"text": "What, , it?", "label": 1}
    build = build_removable_parts(row, "text", attribution, "rows", {"text": "some other"}).build
    assert build(np.array([True, False, False, True]))["text"] == "What, other, some it?"


def test_parts_of_a_clip_are_segments_and_of_a_video_frames() -> None:
    clip = {"audio": {"array": np.ones(100, dtype=np.float32), "sampling_rate": 100}}
    attribution = Attribution("audio", np.arange(4.0), times=np.linspace(0, 1, 5))
    build = build_removable_parts(clip, "audio", attribution, "silence", {}).build
    made = build(np.array([True, False, True, True]))["audio"]
    assert made["sampling_rate"] == 100 and made["array"].tolist() == [1.0] * 25 + [0.0] * 25 + [1.0] * 50
    frames = [Image.new("RGB", (4, 4), (shade,) * 3) for shade in (0, 90, 180)]
    attribution = Attribution("video", np.arange(3.0))
    build = build_removable_parts({"video": frames}, "video", attribution, "still", {}).build
    made = [frame.getpixel((0, 0))[0] for frame in build(np.array([True, True, False]))["video"]]
    assert made == [0, 90, 90]


def test_columns_of_a_table_are_emptied() -> None:
    attribution = Attribution("table", np.array([1.0, 2.0]), columns=["age", "city"])
    build = build_removable_parts({"age": 3, "city": "x"}, "table", attribution, "empty", {}).build
    assert build(np.array([True, False])) == {"age": 3, "city": None}


def test_parts_are_put_back_the_largest_first() -> None:
    masks = order_parts(np.array([0.1, 3.0, -2.0]), steps=8)
    assert [mask.tolist() for mask in masks] == [
        [False] * 3, [False, True, False], [True, True, False], [True] * 3
    ]  # fmt: skip
    assert len(order_parts(np.zeros(64), 8)) == 9


def test_noise_cannot_be_seen_or_heard() -> None:
    row = {**make_rows(1)[0], "audio": {"array": np.sin(np.arange(400.0)), "sampling_rate": 100}, "text": "a"}
    noisy = add_noise(row, 0, 0)
    change = np.asarray(noisy["image"]).astype(int) - np.asarray(row["image"])
    assert np.abs(change).max() == 1 and noisy["text"] == "a"
    heard = noisy["audio"]["array"] - row["audio"]["array"]
    assert 0 < np.abs(heard).max() < 0.01
