"""One start, trained on in several ways for the same CPU seconds each; of each way the best learning rate."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from transformers import TrainerCallback

from plait.training.runs.train import TrainingRun

STEPS = 1_000_000  # more than a training does before its seconds are over
# of a training that goes on from a start; warmup fills the statistics of a new optimizer
CONTINUED: dict[str, Any] = {
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "save_strategy": "no",
    "eval_strategy": "no",
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 10,
    "logging_steps": 50,
    "max_steps": STEPS,
}


class StopAfter(TrainerCallback):
    """Ends a training after CPU seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.begun = seconds, 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= time.process_time() - self.begun > self.seconds


class Attempt(NamedTuple):
    """A training at a learning rate, and the metric on the validation rows after it."""

    rate: float
    validation: float
    run: TrainingRun


def train_at_best_rate(
    build: Callable[[float], TrainingRun], rates: Sequence[float], seconds: float, measure: Callable[[Any], float]
) -> tuple[Attempt, str]:
    """Trains once for each learning rate; returns the attempt with the best metric on the validation rows, and a line
    that shows all of them.

    build: a run at the rate, with `warmup_steps` and `max_steps` of CONTINUED; measure: the metric of a run.
    """
    tried = []
    for rate in rates:
        run = build(rate)
        run.trainer.add_callback(StopAfter(seconds))
        run.trainer.train()
        tried.append(Attempt(rate, measure(run), run))
    best = max(tried, key=lambda attempt: attempt.validation)
    shown = {f"{each.rate:g}": [round(each.validation, 4), each.run.trainer.state.global_step] for each in tried}
    return best, f"best rate {best.rate:g}; [validation, steps] by rate {json.dumps(shown)}"
