"""The moving average of the weights, by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from plait.training.optimization.weight_averaging import WeightAveraging

ARGS: Any = SimpleNamespace(load_best_model_at_end=False)


def run(averaging: WeightAveraging, steps: range) -> None:
    for step in steps:
        with torch.no_grad():
            averaging.model.weight.fill_(float(step))
        averaging.on_step_end(ARGS, ARGS, ARGS)


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_and_its_decay(tmp_path: Path, warmup: bool) -> None:
    """In one go, and saved after step 4 and resumed."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 7.0)
    averaging = WeightAveraging(model, 0.6, warmup)
    averaging.on_train_begin(ARGS, ARGS, ARGS)
    run(averaging, range(1, 5))
    with averaging.use_average():
        saved = {name: value.clone() for name, value in model.state_dict().items()}
    averaging.save_trained_weights(tmp_path)
    run(averaging, range(5, 9))
    averaging.on_train_end(ARGS, ARGS, ARGS)
    expected = 7.0
    for step in range(1, 9):
        kept = min(0.6, (1 + step) / (10 + step)) if warmup else 0.6
        expected = kept * expected + (1 - kept) * step
    torch.testing.assert_close(model.weight.detach(), torch.full((1, 2), expected))
    other = nn.Linear(2, 1, bias=False)
    other.load_state_dict(saved)
    resumed = WeightAveraging(other, 0.6, warmup)
    resumed.resume_average(tmp_path, 4)
    resumed.on_train_begin(ARGS, ARGS, ARGS)
    run(resumed, range(5, 9))
    resumed.on_train_end(ARGS, ARGS, ARGS)
    assert torch.equal(other.weight, model.weight)
