"""Modalities and checks over every class of model, at tiny size."""

from typing import Any

import numpy as np
import pytest

import plait
from plait.training.explanations.checking.belief import check_explanations
from plait.training.explanations.modalities import find_model_players

from ...compatibility.tiny_models import list_tiny_models
from ...compatibility.tiny_processors import make_clips, make_images, make_videos
from .test_explain import NAMES, RATE, build_once, make_processor, make_row

SECOND: dict[str, Any] = {"text": "a small bird is blue", "image": make_images()[1], "video": [*make_videos()[1]]}
SECOND["audio"] = {"array": np.tile(make_clips()[1], 6), "sampling_rate": RATE}


def make_rows(name: str) -> list[dict[str, Any]]:
    """Two rows with different values; what holds a mask, an image token or an answer stays."""
    row = make_row(name)
    other = {key: SECOND.get("text" if key == "document" else key, value) for key, value in row.items()}
    if isinstance(row.get("document"), str):
        other["document"] = "a blue bird"
    elif "document" in row:
        other["document"] = row["document"]
    fixed = list_tiny_models()[name].class_name in ("PlaitForCausalLM", "PlaitForMaskedLM", "PlaitForQuestionAnswering")
    return [row, {**other, **({"text": row["text"]} if fixed and "text" in row else {})}]


def find_target(name: str) -> Any:
    writes = list_tiny_models()[name].class_name in ("PlaitForCausalLM", "PlaitForConditionalGeneration")
    return "red dog" if writes else None


@pytest.mark.parametrize("name", NAMES)
def test_modalities_of_every_class(name: str) -> None:
    model, processor, rows = build_once(name), make_processor(name), make_rows(name)
    if not find_model_players(model, rows, "modality"):
        pytest.skip("everything that this model reads holds its target")
    report = plait.explain_modalities(model, processor, rows, find_target(name), draws=1)
    assert np.isfinite(report.nats.whole).all() and len(report.targets) == 2
    gaps = report.nats.shapley.sum(1) - (report.nats.whole - report.nats.empty)
    assert np.abs(gaps).max() < 1e-5
    if len(report.players) == 2:  # swapped as a whole, each row is the other one
        assert report.nats.interactions[" + ".join(report.players)].shape == (2,)
    assert report.describe()


@pytest.mark.parametrize("name", ["classification_text_image", "retrieval_text_audio"])
def test_checks_of_other_classes(name: str) -> None:
    model, rows = build_once(name), make_rows(name)
    report = check_explanations(
        model, make_processor(name), rows, ["occlusion"], find_target(name), cells=2, segments=2, num_baselines=1
    )
    assert {check.modality for check in report.checks} == set(rows[0])
    for check in report.checks:
        assert check.above_random is not None and np.isfinite(check.above_random.value)
        assert {*check.redrawn} <= {"head", "fusion", "text", "image", "audio"}
