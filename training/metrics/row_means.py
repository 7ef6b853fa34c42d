"""Measures that are means over the rows of the evaluation data."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from .base import expect_known, expect_rows
from .per_row import RowScore, RowScores

LOSS = "loss"


class RowMeans(ABC):
    """The loss of a model and one measure, means over the rows. For PlaitTrainer's `compute_metrics`.

    The record of a row is the tuple of its loss and its measure.

    Raises:
        ValueError: an unknown metric name.
    """

    measure: ClassVar[str]
    subject: ClassVar[str]  # what messages say is measured

    def __init__(self, names: Sequence[str] = ()) -> None:
        for name in names:
            expect_known("metric", name, (self.measure,), f" of {self.subject}")
        self.reset()

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return [self.measure]

    def reset(self) -> None:
        """Forgets all rows."""
        self.rows: list[tuple[float, float]] = []

    @abstractmethod
    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[tuple[float, float]]:
        """Returns the record of each row of a batch, under `inputs` the arguments of the model."""

    def update(self, records: Sequence[tuple[float, float]]) -> None:
        """Adds the records of a batch, gathered over all processes."""
        self.rows += records

    def compute(self) -> dict[str, float]:
        """Returns `{name: mean}` over all rows since `reset`."""
        expect_rows(len(self.rows))
        return {name: score.compute() for name, score in self.compute_per_row().items()}

    def compute_per_row(self) -> RowScores:
        """Returns the scores of the rows by metric, in the order of adding."""
        columns = np.array(self.rows, dtype=float).reshape(-1, 2).T
        pairs = zip((LOSS, self.measure), columns, strict=True)
        return {name: RowScore(values, np.ones_like(values)) for name, values in pairs}

    @abstractmethod
    def select_predictions(self, records: Sequence[tuple[float, float]]) -> list[float]:
        """Returns a number for each row, for the Trainer's `predict`."""
