"""Losses of several objectives: measured one by one, and logged one by one while training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate.utils import find_batch_size

from ...configuration.objectives import CONTRASTIVE, MATCHING
from ...modeling.backbone.pretrained import PlaitPreTrainedModel

MATCHING_ACCURACY = "matching_accuracy"


class ObjectiveMetrics:
    """The loss of each objective and their weighted sum, averaged over the rows; and the share of the pairs and their
    hardest negatives that matching tells right. For PlaitTrainer's `compute_metrics`.

    Pairs are compared within a batch: the contrastive loss depends on the evaluation's batch size. A batch of a
    single row is left out of that and of matching, and of every objective a batch that has nothing for it.

    Raises:
        ValueError: a metric that is none of these.
    """

    def __init__(self, names: Sequence[str], weights: Mapping[str, float]) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.known = [*self.weights, *([MATCHING_ACCURACY] if MATCHING in self.weights else [])]
        for name in names:
            if name not in self.known:
                raise ValueError(f"there is no {name!r} here: measured are {', '.join(self.known)}")
        self.reset()

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return self.known

    def reset(self) -> None:
        """Forgets all rows."""
        self.by_row: dict[str, list[float]] = {name: [] for name in self.known}

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[dict[str, float]]:
        """The values of a batch, for each of its rows."""
        inputs = batch["inputs"]
        count: Any = find_batch_size(inputs)
        names = [name for name in self.weights if count > 1 or name not in (CONTRASTIVE, MATCHING)]
        if not names:
            return [{}] * count
        outputs = model(**{**inputs, "objectives": names})
        values = {name: float(loss) for name, loss in outputs.losses.items()}
        if outputs.matching_logits is not None:
            right = outputs.matching_logits.argmax(dim=1) == outputs.matching_labels
            values[MATCHING_ACCURACY] = float(right.float().mean())
        return [values] * count

    def update(self, records: Sequence[Mapping[str, float]]) -> None:
        """One more batch, of all processes."""
        for record in records:
            for name, value in record.items():
                self.by_row[name].append(value)

    def compute(self) -> dict[str, float]:
        """`{name: value}` over all rows so far; an objective that no batch had anything for is left out. The loss is
        not a number where nothing could be measured."""
        means = {name: math.fsum(values) / len(values) for name, values in self.by_row.items() if values}
        parts = [self.weights[name] * means[name] for name in self.weights if name in means]
        return {"loss": math.fsum(parts) if parts else math.nan, **means}

    def select_predictions(self, records: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
        """What the Trainer's `predict` returns."""
        return list(records)
