"""The loss of each pretraining objective, measured on evaluation data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate.utils import find_batch_size

from ...configuration.objectives import CONTRASTIVE, MATCHING
from ...modeling.backbone.pretrained import PlaitPreTrainedModel

MATCHING_ACCURACY = "matching_accuracy"


class ObjectiveMetrics:
    """The loss of each objective and their weighted sum, averaged over the rows, and the accuracy of matching on the
    pairs and their hardest negatives. For PlaitTrainer's `compute_metrics`.

    Pairs are compared within a batch, so the contrastive loss depends on the batch size of the evaluation. A batch of a
    single row is left out of contrastive and matching; a batch without input for an objective is left out of it.

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
        self.by_row: dict[str, list[float]] = {name: [] for name in self.known}

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[dict[str, float]]:
        """Returns the losses of a batch, `{objective: loss}`, once for each of its rows."""
        inputs = batch["inputs"]
        count: Any = find_batch_size(inputs)
        names = [name for name in self.weights if count > 1 or name not in (CONTRASTIVE, MATCHING)]
        if not names:
            return [{}] * count
        outputs = model(**{**inputs, "objectives": names})
        values = {name: float(loss) for name, loss in outputs.losses.items()}
        if outputs.matching_logits is not None:
            correct = outputs.matching_logits.argmax(dim=1) == outputs.matching_labels
            values[MATCHING_ACCURACY] = float(correct.float().mean())
        return [values] * count

    def update(self, records: Sequence[Mapping[str, float]]) -> None:
        """Adds the records of a batch, gathered over all processes."""
        for record in records:
            for name, value in record.items():
                self.by_row[name].append(value)

    def compute(self) -> dict[str, float]:
        """Returns `{name: value}` over all rows since `reset`, without objectives that no batch had input for. The loss
        is NaN if no objective was measured."""
        means = {name: math.fsum(values) / len(values) for name, values in self.by_row.items() if values}
        parts = [self.weights[name] * means[name] for name in self.weights if name in means]
        return {"loss": math.fsum(parts) if parts else math.nan, **means}

    def select_predictions(self, records: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
        """Returns the records as they are, for the Trainer's `predict`."""
        return list(records)
