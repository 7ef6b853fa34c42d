"""The problem type of labels, what counts as a label, and smoothed and weighted losses written out."""

from typing import Any

import pytest
import torch

from plait import PlaitConfig
from plait.modeling.losses.cross_entropy import (
    build_smoothed_bce,
    classification_loss,
    count_labels,
    cross_entropy,
    find_problem_type,
    masked_lm_loss,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("count", "labels", "problem"),
    [
        (1, torch.zeros(3), "regression"),
        (1, torch.zeros(3, dtype=torch.long), "regression"),
        (3, torch.zeros(4, dtype=torch.long), "single_label_classification"),
        (3, torch.zeros(3, dtype=torch.long), "single_label_classification"),
        (3, torch.zeros(4, 1, dtype=torch.long), "single_label_classification"),
        (3, torch.zeros(4, 3, dtype=torch.long), "multi_label_classification"),
        (3, torch.zeros(4, 3), "multi_label_classification"),
        (3, torch.zeros(4), "multi_label_classification"),
        (3, torch.zeros(2, 4, 3, dtype=torch.long), "single_label_classification"),
    ],
)
def test_the_problem_follows_from_the_labels(count: int, labels: torch.Tensor, problem: str) -> None:
    config = PlaitConfig(num_labels=count)
    assert find_problem_type(config, labels) == problem
    for given in ("regression", "multi_label_classification"):
        assert find_problem_type(PlaitConfig(num_labels=count, problem_type=given), labels) == given


@pytest.mark.parametrize(
    ("labels", "problem", "count"),
    [
        ([0, 2, -100], "single_label_classification", 2),
        ([-100, -100], "single_label_classification", 1),
        ([-100, 0], "single_label_classification", 1),
        ([1.0, NAN, 2.0], "regression", 2),
        ([[1, 0, -100], [0, 0, 1]], "multi_label_classification", 5),
        ([[NAN], [NAN]], "multi_label_classification", 1),
    ],
)
def test_labels_that_are_counted(labels: list[Any], problem: Any, count: int) -> None:
    assert int(count_labels(torch.tensor(labels), problem)) == count


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_losses_of_rows_are_written_out(smoothing: float, weights: list[float] | None) -> None:
    """Weights multiply a row's loss and leave the divisor alone, which is the number of known labels or the given."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 3, dtype=torch.float64), torch.tensor([[0, -100, 2], [1, 1, -100]])
    scales = [1.0] * 3 if weights is None else weights
    total = 0.0
    for row, label in zip(logits.flatten(0, 1).log_softmax(-1), labels.flatten().tolist(), strict=True):
        if label != -100:
            smooth = smoothing / 3 * sum(scale * float(value) for scale, value in zip(scales, row, strict=True))
            total -= (1 - smoothing) * scales[label] * float(row[label]) + smooth
    given = None if weights is None else torch.tensor(weights)
    found = cross_entropy(logits, labels, None, smoothing, given)
    assert float(found) == pytest.approx(total / 4, rel=1e-6) and found.dtype == torch.float32
    for divisor in (8, torch.tensor(8)):
        assert float(cross_entropy(logits, labels, divisor, smoothing, given)) == pytest.approx(total / 8, rel=1e-6)
    flat, ids = logits.flatten(0, 1), labels.flatten()
    single = classification_loss(flat, ids, "single_label_classification", 8, smoothing, given)
    assert float(single) == pytest.approx(total / 8, rel=1e-6)
    assert float(classification_loss(flat, ids, "single_label_classification", None, smoothing, given)) == float(found)
    if weights is None:
        words = masked_lm_loss(logits, labels.int(), None, smoothing)
        assert float(words) == float(found)
        assert float(masked_lm_loss(logits, labels, 8, smoothing)) == pytest.approx(total / 8, rel=1e-6)
    assert float(cross_entropy(logits, torch.full((2, 3), -100))) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_labels_move_towards_a_half(smoothing: float) -> None:
    logits, labels = torch.tensor([[1.5, -0.5], [0.25, 2.0]]), torch.tensor([[1.0, 0.0], [-100, 1.0]])
    terms = []
    for x, y in ((1.5, 1.0), (-0.5, 0.0), (2.0, 1.0)):
        target = y + smoothing * (0.5 - y)
        chance = torch.tensor(x).sigmoid()
        terms.append(-(target * chance.log() + (1 - target) * (1 - chance).log()))
    whole = classification_loss(logits, labels, "multi_label_classification", None, smoothing)
    assert float(whole) == pytest.approx(float(sum(terms)) / 3, rel=1e-6)
    given = classification_loss(logits, labels, "multi_label_classification", 4, smoothing)
    assert float(given) == pytest.approx(float(sum(terms)) / 4, rel=1e-6)
    each = build_smoothed_bce(smoothing)(logits[:1], labels[:1], reduction="none")
    assert each[0].tolist() == pytest.approx([float(term) for term in terms[:2]], rel=1e-6)


def test_errors_of_a_regression_are_in_units_of_the_targets() -> None:
    logits, labels = torch.tensor([[1.0], [2.0], [7.0]]), torch.tensor([3.0, 5.0, NAN])
    assert float(classification_loss(logits, labels, "regression")) == pytest.approx((4 + 9) / 2)
    assert float(classification_loss(logits, labels, "regression", 4)) == pytest.approx(13 / 4)
    assert float(classification_loss(logits, labels, "regression", target_std=2.0)) == pytest.approx(13 / 8)
    two, wanted = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 4.0]])
    found = classification_loss(two, wanted, "regression", target_std=[2.0, 3.0])
    assert float(found) == pytest.approx((1 + 1) / 2)
