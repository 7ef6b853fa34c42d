"""Labels of several classes, and labels that are not known, in the losses of every problem type."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from plait import PlaitConfig, PlaitForClassification
from plait.configuration import PlaitTextConfig
from plait.modeling.losses.cross_entropy import classification_loss, count_labels

MULTI, SINGLE, REGRESSION = "multi_label_classification", "single_label_classification", "regression"
LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
HOT = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
NAN = float("nan")
# problem type, logits, labels, the places of labels that become unknown, and what stands for unknown
UNKNOWN = [
    (MULTI, LOGITS, HOT.float(), [(0, 1), (2, 0), (2, 1), (2, 2)], -100.0),
    (MULTI, LOGITS, HOT.float(), [(0, 1), (3, 2)], NAN),
    (MULTI, LOGITS, HOT, [(0, 1), (3, 2)], -100),
    (SINGLE, LOGITS, torch.tensor([0, 2, 1, 2]), [(1,), (3,)], -100),
    (REGRESSION, LOGITS[:, :1], torch.tensor([1.5, -100.0, 0.0, 2.0]), [(2,)], NAN),
    (REGRESSION, LOGITS, torch.randn(4, 3), [(2, 1), (0, 0)], NAN),
]


def mask(labels: Tensor, places: list[tuple[int, ...]], value: float) -> tuple[Tensor, Tensor]:
    """Labels with unknown ones, and where the others are."""
    known, labels = torch.ones_like(labels, dtype=torch.bool), labels.clone()
    for place in places:
        labels[place], known[place] = value, False
    return labels, known


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float64])
def test_vectors_of_any_number_type_have_the_same_loss(dtype: torch.dtype) -> None:
    expected = F.binary_cross_entropy_with_logits(LOGITS, HOT.float())
    torch.testing.assert_close(classification_loss(LOGITS, HOT.to(dtype), MULTI), expected)


@pytest.mark.parametrize(("problem_type", "logits", "labels", "places", "value"), UNKNOWN)
def test_unknown_labels_are_left_out_of_the_loss(
    problem_type: str, logits: Tensor, labels: Tensor, places: list[tuple[int, ...]], value: float
) -> None:
    """The loss is the mean over the known labels; the logits of the others get no gradient, whatever they are."""
    given, known = mask(labels, places, value)
    logits = logits.clone().requires_grad_()
    loss = classification_loss(logits, given, problem_type)
    if problem_type == SINGLE:
        expected = F.cross_entropy(logits[known], labels[known])
    else:
        criterion = F.mse_loss if problem_type == REGRESSION else F.binary_cross_entropy_with_logits
        expected = criterion(logits[known.view_as(logits)], labels[known].float())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    gradient = logits.grad if problem_type == SINGLE else logits.grad.view_as(known)
    assert not gradient[~known].any() and gradient[known].any()
    assert count_labels(given, problem_type) == known.sum()
    halves = [
        classification_loss(logits[rows], given[rows], problem_type, known.sum()) for rows in (slice(1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(halves), expected)


@pytest.mark.parametrize(("problem_type", "logits", "labels", "places", "value"), UNKNOWN)
def test_a_batch_without_a_known_label_has_no_loss(
    problem_type: str, logits: Tensor, labels: Tensor, places: list[tuple[int, ...]], value: float
) -> None:
    assert classification_loss(logits, torch.full_like(labels, value), problem_type) == 0


@pytest.mark.parametrize(
    ("problem_type", "labels", "message"),
    [
        (
            MULTI,
            torch.tensor([[1, 0, 1], [0, 2, 0], [0, 0, 0], [0, 0, 0]]),
            "label 2 of row 1, class 1 is neither 0 nor 1",
        ),
        (MULTI, torch.tensor([[1.0, 0.0, -1.0]] * 4), "label -1.0 of row 0, class 2"),
        (MULTI, torch.tensor([0, 1, 2, 0]), r"the shape \(4,\), but multi_label_classification .* needs \(4, 3\)"),
        (SINGLE, torch.tensor([0, 1, 3, 0]), "label 3 of row 2 is not one of the 3 classes"),
        (SINGLE, HOT, r"the shape \(4, 3\), but single_label_classification .* needs \(4,\)"),
        (REGRESSION, torch.tensor([0.5, 1.0]), "needs"),
    ],
)
def test_other_values_and_shapes_are_errors_with_their_row(problem_type: str, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_loss(LOGITS, labels, problem_type)


def test_a_plain_forward_takes_vectors_of_any_type() -> None:
    """Without a problem type in the config, vectors are several classes, and ids one."""
    text = PlaitTextConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = PlaitForClassification(PlaitConfig(text_config=text, num_labels=3)).eval()
    ids = torch.arange(8).view(2, 4) + 1
    logits, hot = model(input_ids=ids).logits, torch.tensor([[1, 0, 1], [0, 1, 0]])
    expected = F.binary_cross_entropy_with_logits(logits, hot.float())
    for labels in (hot, hot.bool(), hot.float(), hot.int()):
        torch.testing.assert_close(model(input_ids=ids, labels=labels).loss, expected)
    unknown = torch.tensor([[1.0, NAN, 1.0], [-100.0, 1.0, 0.0]])
    known = torch.tensor([[True, False, True], [False, True, True]])
    expected = F.binary_cross_entropy_with_logits(logits[known], unknown[known])
    torch.testing.assert_close(model(input_ids=ids, labels=unknown).loss, expected)
    one = model(input_ids=ids, labels=torch.tensor([[2], [0]])).loss
    torch.testing.assert_close(one, F.cross_entropy(logits, torch.tensor([2, 0])))


def test_a_batch_without_a_known_label_counts_as_one() -> None:
    """A divisor of 0 would make the loss NaN."""
    assert count_labels(torch.full((3,), -100), "single_label_classification") == 1
    assert count_labels(torch.tensor([1, -100]), "single_label_classification") == 1
