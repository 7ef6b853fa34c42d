"""Rows to tensors: pictures are opened here, in the loader's workers, and each distinct one is processed once."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...processing import PlaitProcessor
from ..data.labels import LabelSpec
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from .base import Task
from .registry import find_task


class PlaitDataCollator(RowEncoder):
    """A batch of rows (the columns that the task reads) as the keyword arguments of a plait model.

    Rows that share a picture (the same image_id, path or bytes) name it by number in `image_indices`, and
    `pixel_values` holds each distinct picture once. A text or picture that is None is an absent modality.

    Args:
        processor: of the model.
        labels: what the label column means; None: batches have no labels.
        task: a task or its name (see `plait.training.tasks`); it makes the labels.
        settings: of the task, as in a recipe.
        max_length: tokens a text, fewer than the tokenizer's own limit.
        seed: of what is drawn at random.

    Attributes:
        features: outputs of frozen towers by modality (PlaitTrainer puts them here); a batch whose inputs are all in
            there gets those instead.
        pictures: processed pictures kept in memory, by each worker; none are unless this is replaced.
    """

    def __init__(
        self,
        processor: PlaitProcessor,
        labels: LabelSpec | None = None,
        *,
        task: str | Task = "classification",
        settings: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        self.task = find_task(task) if isinstance(task, str) else task
        super().__init__(processor, labels, self.task.build_settings(settings or {}), max_length, seed)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        return self.task.build_batch(self, rows)

    def build_training_batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """A batch of this epoch: where a row leaves a choice, it is drawn by seed, epoch and row alone."""
        return self.task.build_batch(self, self.task.sample_rows(self, rows))

    def build_evaluation_batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What the task's StreamedMetrics read: the model's inputs and what its answers are compared with."""
        return self.task.build_evaluation_batch(self, rows)
