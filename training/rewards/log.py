"""What a training by rewards reports, and when it has collapsed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

logger = logging.get_logger(__name__)

LEAST_ENTROPY = 0.1  # of that at the start
LENGTH_FACTOR = 3.0


class RewardLog:
    """The statistics of the texts of several batches, averaged between two logged steps."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.batches = 0

    def update(self, values: Mapping[str, float]) -> None:
        """Adds the statistics of a batch."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.batches += 1

    def take(self) -> dict[str, float]:
        """Returns `{name: mean}` since the last call, and begins anew."""
        found = {name: value / self.batches for name, value in self.sums.items()}
        self.sums, self.batches = {}, 0
        return found


class CollapseGuard(TrainerCallback, ExportableState):
    """Ends a training whose texts collapse: the entropy of their tokens, or their length, has left that of the start.
    What the start was is kept in checkpoints."""

    def __init__(self) -> None:
        self.start: dict[str, float] = {}
        self.reason: str | None = None

    def state(self) -> dict:
        """Returns what a checkpoint keeps."""
        return {"args": {}, "attributes": {"start": self.start}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes the start of a resumed training."""
        saved: Any = state.stateful_callbacks
        self.start |= saved.get(type(self).__name__, self.state())["attributes"].get("start", {})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compares the logged statistics with those of the start; ends the training if they have collapsed."""
        found = {name: value for name, value in (logs or {}).items() if name in ("reward_entropy", "reward_length")}
        if not found:
            return
        if not self.start:
            self.start = found
        self.reason = describe_collapse(self.start, found)
        if self.reason is not None:
            logger.warning(f"step {state.global_step}: {self.reason}; the training ends, with the model as it is")
            control.should_training_stop = True


def describe_collapse(start: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """Returns in one line how the texts collapsed; None if they did not."""
    remedy = "raise reward.kl or reward.cross_entropy, or lower training.learning_rate"
    entropy, length = (float(now.get(f"reward_{name}", np.nan)) for name in ("entropy", "length"))
    first_entropy, first_length = (float(start.get(f"reward_{name}", np.nan)) for name in ("entropy", "length"))
    if entropy < LEAST_ENTROPY * first_entropy:
        return f"the entropy of a token fell from {first_entropy:.3g} to {entropy:.3g} nats: {remedy}"
    if length > LENGTH_FACTOR * first_length or length < first_length / LENGTH_FACTOR:
        return f"the mean length of a text went from {first_length:.3g} to {length:.3g} tokens: {remedy}"
    return None
