"""Answers of classes: the likeliest are found without a name for every class, and are those of a full sort."""

from typing import Any

import pytest
import torch

from plait.training.data.labels import MULTI, SINGLE, LabelSpec
from plait.training.tasks.classification import format_class_answers

LOGITS = {
    "apart": torch.randn(20, 30, generator=torch.Generator().manual_seed(0)),
    "equal as they are rounded": torch.randint(0, 3, (20, 30), generator=torch.Generator().manual_seed(1)) * 2e-7,
    "not numbers": torch.full((2, 30), float("nan")),
}


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("kind", [SINGLE, MULTI])
def test_the_likeliest_are_those_of_a_full_sort(name: str, kind: Any) -> None:
    """Of equal probabilities, as they are rounded, the class with the smaller number comes first."""
    logits, labels = LOGITS[name], LabelSpec(tuple(f"class {number}" for number in range(30)), kind)
    thresholds = {f"class {number}": 0.1 + number / 60 for number in range(20)}  # the others: 0.5
    for top_k in (1, 4, 30, 99):
        full = format_class_answers(logits, labels, thresholds)
        for whole, short in zip(full, format_class_answers(logits, labels, thresholds, top_k), strict=True):
            probabilities = whole.pop("probabilities")
            ranked = sorted(probabilities, key=lambda label: -probabilities[label])[:top_k]
            found = short.pop("top_k")
            assert [one["label"] for one in found] == ranked and str(whole) == str(short)
            assert str([one["score"] for one in found]) == str([probabilities[label] for label in ranked])
            if kind == SINGLE:
                assert whole["label"] == max(probabilities, key=lambda label: probabilities[label])
            else:
                limits = {label: thresholds.get(label, 0.5) for label in probabilities}
                assert whole["label"] == [label for label, score in probabilities.items() if score > limits[label]]
