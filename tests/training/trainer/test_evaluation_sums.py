"""The sums of an evaluation's loss, and the rows of a batch that are there only to fill it, number by number."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plait.training.trainer.evaluation_loss import EvaluationLoss, count_real_rows, hide_fill_rows, hide_labels


def processes(index: int = 0, remainder: int = -1, last: bool = True) -> Any:
    """What a Trainer says of its process and of the last round of batches."""
    state = SimpleNamespace(end_of_dataloader=last, remainder=remainder)
    accelerator = SimpleNamespace(gradient_state=state, process_index=index, gather=lambda tensor: tensor)
    return SimpleNamespace(accelerator=accelerator, label_names=["labels", "start_positions"])


def test_the_loss_is_the_mean_over_all_targets() -> None:
    sums = EvaluationLoss(torch.device("cpu"))
    assert sums.compute(processes()) is None and sums.sums.dtype == torch.double
    sums.update(torch.tensor(2.0), torch.tensor(3))
    sums.update(torch.tensor(float("nan")), torch.tensor(0))  # no target: the mean of nothing
    assert sums.compute(processes()) == 2.0
    sums.update(torch.tensor(6.0), torch.tensor(1))
    assert sums.compute(processes()) == 3.0 and sums.sums.tolist() == [12.0, 4.0]


@pytest.mark.parametrize(
    ("index", "remainder", "last", "real"),
    [(0, 3, True, 3), (0, 4, True, 4), (0, 5, True, 4), (1, 5, True, 1), (1, 3, True, 0), (1, 9, True, 4),
     (0, 1, True, 1),
     (0, 0, True, 4), (0, -1, True, 4), (0, 3, False, 4), (1, 3, False, 4)],
)  # fmt: skip
def test_rows_of_the_last_round_are_real_up_to_the_remainder(index: int, remainder: int, last: bool, real: int) -> None:
    """Batches of four rows; the processes have the rows one after the other."""
    trainer, inputs = processes(index, remainder, last), {"labels": torch.zeros(4, 2)}
    assert count_real_rows(trainer, inputs) == real


def test_labels_of_rows_that_fill_a_batch_are_unknown() -> None:
    inputs = {
        "input_ids": torch.ones(3, 2, dtype=torch.long),
        "labels": torch.ones(3, 2, dtype=torch.long),
        "shift_labels": torch.ones(3),
        "start_positions": torch.arange(3),
    }
    kept = {name: value.clone() for name, value in inputs.items()}
    hidden, real = hide_fill_rows(processes(0, 1), inputs)
    assert real == 1 and hidden["input_ids"] is inputs["input_ids"]
    assert hidden["labels"].tolist() == [[1, 1], [-100, -100], [-100, -100]]
    assert hidden["shift_labels"].isnan().tolist() == [False, True, True] and hidden["shift_labels"][0] == 1
    assert hidden["start_positions"].tolist() == [0, -100, -100]
    assert all(torch.equal(inputs[name], kept[name]) for name in kept)
    for whole in (3, 4):
        assert hide_labels(inputs["labels"], whole) is inputs["labels"]
    assert hide_labels([1, 2], 0) == [1, 2]
