"""The loss of each pretraining objective, measured on evaluation data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from accelerate.utils import find_batch_size

from ...configuration.objectives import CAPTIONING, CONTRASTIVE, MASKED_LM, MATCHING
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.losses.labels import IGNORE_INDEX

MATCHING_ACCURACY = "matching_accuracy"


# objectives whose loss is a mean over tokens -> the input that holds these, -100 for others
TARGETS = {MASKED_LM: "mlm_labels", CAPTIONING: "labels"}


class Share(NamedTuple):
    """The part of a row in a mean. mean: over the targets of its batch; count: the weight of this mean."""

    mean: float
    count: int


class ObjectiveMetrics:
    """The loss of each objective and their weighted sum, averaged over the tokens that it predicts, or else over the
    rows, and the accuracy of matching on the pairs and their hardest negatives. For PlaitTrainer's `compute_metrics`.

    Pairs are compared within a batch, so the losses of contrastive and matching depend on the evaluation's batch size.
    A batch of a single row is left out of these two; a batch without input for an objective is left out of it.

    Raises:
        ValueError: an unknown metric name.
    """

    def __init__(self, names: Sequence[str], weights: Mapping[str, float]) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.known = [*self.weights, *([MATCHING_ACCURACY] if MATCHING in self.weights else [])]
        for name in names:
            if name not in self.known:
                raise ValueError(f"there is no metric {name!r} here: choose from {', '.join(self.known)}")
        self.reset()

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return self.known

    def reset(self) -> None:
        """Forgets all rows."""
        self.shares: dict[str, list[Share]] = {name: [] for name in self.known}

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[dict[str, Share]]:
        """Returns the losses of a batch by objective, for each of its rows."""
        inputs = batch["inputs"]
        count: Any = find_batch_size(inputs)
        names = [name for name in self.weights if count > 1 or name not in (CONTRASTIVE, MATCHING)]
        if not names:
            return [{}] * count
        outputs = model(**{**inputs, "objectives": names})
        values = {name: Share(float(loss), 1) for name, loss in outputs.losses.items()}
        if outputs.matching_logits is not None:
            correct = outputs.matching_logits.argmax(dim=1) == outputs.matching_labels
            values[MATCHING_ACCURACY] = Share(float(correct.float().mean()), 1)
        counts = {name: count_known(inputs.get(field)) for name, field in TARGETS.items() if name in values}
        first = {name: share._replace(count=counts.get(name, 1)) for name, share in values.items()}
        others = {name: share._replace(count=0 if name in counts else 1) for name, share in values.items()}
        return [first, *[others] * (count - 1)]  # the first row stands for all tokens: only their mean is known

    def update(self, records: Sequence[Mapping[str, Share]]) -> None:
        """Adds the records of a batch, gathered over all processes."""
        for record in records:
            for name, share in record.items():
                self.shares[name].append(share)

    def compute(self) -> dict[str, float]:
        """Returns `{name: value}` over all rows since `reset`, without objectives that no batch had input for. The loss
        is NaN if no objective was measured."""
        means = {
            name: math.fsum(mean * count for mean, count in shares) / total
            for name, shares in self.shares.items()
            if (total := sum(count for _, count in shares))
        }
        parts = [self.weights[name] * means[name] for name in self.weights if name in means]
        return {"loss": math.fsum(parts) if parts else math.nan, **means}

    def select_predictions(self, records: Sequence[Mapping[str, Share]]) -> list[dict[str, float]]:
        """Returns the losses of each row's batch, for the Trainer's `predict`."""
        return [{name: share.mean for name, share in record.items()} for record in records]


def count_known(labels: Any) -> int:
    """Counts the labels that are not -100."""
    return 0 if labels is None else int((labels != IGNORE_INDEX).sum())
