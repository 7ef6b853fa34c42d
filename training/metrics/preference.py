"""Metrics of preferences: whether a model finds the chosen one of two answers likelier."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from .generation import GenerationMetrics, compute_row_losses
from .per_row import RowScore, RowScores

PREFERENCE_ACCURACY, PREFERENCE_MARGIN = "preference_accuracy", "preference_margin"


class PreferredRow(NamedTuple):
    """The record of a row: as GeneratedRow, of the chosen answer, and its log-probability minus that of the rejected
    one, in nats."""

    text: str
    references: list[str]
    loss: float
    tokens: int
    margin: float


class PreferenceMetrics(GenerationMetrics):
    """The share of rows whose chosen answer is likelier than the rejected one (`preference_accuracy`; equal ones count
    half), and the mean difference of their log-probabilities (`preference_margin`, nats); the perplexity of the chosen
    answer; and metrics of generated text by name, compared with the chosen answer.

    Raises as GenerationMetrics.
    """

    def __init__(self, names: Sequence[str], processor: PlaitProcessor) -> None:
        super().__init__([name for name in names if name not in (PREFERENCE_ACCURACY, PREFERENCE_MARGIN)], processor)

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return [PREFERENCE_ACCURACY, PREFERENCE_MARGIN, *super().names]

    def reset(self) -> None:
        """Forgets all rows."""
        super().reset()
        self.margins: list[float] = []

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[Any]:
        """Returns the records of an evaluation batch: that of GenerationMetrics for the chosen answers, and `rejected`,
        the model's inputs for the others."""
        found = super().measure_batch(model, batch)
        rejected = compute_row_losses(model, batch["rejected"])[0].tolist()
        return [PreferredRow(*row, other - row.loss) for row, other in zip(found, rejected, strict=True)]

    def update(self, records: Sequence[Any]) -> None:
        """Adds the records of a batch, gathered over all processes."""
        super().update(records)
        self.margins += [row.margin for row in records]

    def compute(self) -> dict[str, float]:
        """Returns `{name: value}` over all rows since `reset`."""
        return {**{name: score.compute() for name, score in self.score_margins().items()}, **super().compute()}

    def compute_per_row(self) -> RowScores:
        """Returns the per-row scores by metric, in the order of adding."""
        return {**self.score_margins(), **super().compute_per_row()}

    def score_margins(self) -> RowScores:
        """Returns the per-row scores of the preferences."""
        margins = np.array(self.margins, dtype=float)
        ones = np.ones_like(margins)
        return {
            PREFERENCE_ACCURACY: RowScore((np.sign(margins) + 1) / 2, ones),
            PREFERENCE_MARGIN: RowScore(margins, ones),
        }
