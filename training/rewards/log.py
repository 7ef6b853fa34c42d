"""What a training by rewards reports, and when it has collapsed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from ..metrics.direction import is_greater_better

logger = logging.get_logger(__name__)

LEAST_ENTROPY = 0.1  # of that at the start
LENGTH_FACTOR = 3.0
LOST_SHARE = 0.2  # of the held-out metric at the start


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
    """Ends a training whose texts collapse: the entropy of their tokens, or their length, has left that of the start,
    or the reward has risen while a metric that is not rewarded has fallen. What the start was is kept in checkpoints.

    held_out: the name of that metric, as in the logs of an evaluation without its prefix; None: none is watched.
    """

    def __init__(self, held_out: str | None = None) -> None:
        self.held_out = held_out
        self.start: dict[str, float] = {}
        self.reward: float | None = None  # the last one that was logged
        self.reason: str | None = None

    def state(self) -> dict:
        """Returns what a checkpoint keeps."""
        return {"args": {}, "attributes": {"start": self.start, "reward": self.reward}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes the start of a resumed training."""
        saved: Any = state.stateful_callbacks
        kept = saved.get(type(self).__name__, self.state())["attributes"]
        self.start |= kept.get("start", {})
        self.reward = kept.get("reward", self.reward)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compares the logged statistics with those of the start; ends the training if they have collapsed."""
        found = {name: float(value) for name, value in (logs or {}).items() if name in WATCHED}
        self.reward = found.get("reward", self.reward)
        measured = (logs or {}).get(f"eval_{self.held_out}")
        if measured is not None and self.reward is not None:
            found |= {"held_out": float(measured), "reward": self.reward}
        self.start |= {name: value for name, value in found.items() if name not in self.start}
        self.reason = describe_collapse(self.start, found, self.held_out or "")
        if self.reason is not None:
            logger.warning(f"step {state.global_step}: {self.reason}; the training ends, with the model as it is")
            control.should_training_stop = True


WATCHED = ("reward", "reward_entropy", "reward_length")


def describe_collapse(start: Mapping[str, float], now: Mapping[str, float], held_out: str = "") -> str | None:
    """Returns in one line how the texts collapsed; None if they did not. held_out: the name of the metric that is not
    rewarded, whose value is `held_out` in `start` and `now`."""
    remedy = "raise reward.kl or reward.cross_entropy, or lower training.learning_rate"
    names = (*WATCHED, "held_out")
    reward, entropy, length, measured = (float(now.get(name, np.nan)) for name in names)
    first_reward, first_entropy, first_length, first_measured = (float(start.get(name, np.nan)) for name in names)
    if entropy < LEAST_ENTROPY * first_entropy:
        return f"the entropy of a token fell from {first_entropy:.3g} to {entropy:.3g} nats: {remedy}"
    if length > LENGTH_FACTOR * first_length or length < first_length / LENGTH_FACTOR:
        return f"the mean length of a text went from {first_length:.3g} to {length:.3g} tokens: {remedy}"
    lost = (first_measured - measured) * (1 if is_greater_better(held_out) else -1)
    if reward > first_reward and lost > LOST_SHARE * abs(first_measured):
        return (
            f"the reward rose from {first_reward:.3g} to {reward:.3g} while {held_out}, which is not rewarded, went "
            f"from {first_measured:.3g} to {measured:.3g}: {remedy}"
        )
    return None
