"""The collator, from rows to tensors: images are opened in the loader's workers, and each distinct one is processed
once."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...processing import PlaitProcessor
from ..data.labels import LabelSpec
from ..data.media import Row, name_data_rows
from ..data.row_encoder import ImageCache, RowEncoder
from .base import Task
from .registry import find_task


class PlaitDataCollator(RowEncoder):
    """A collator that builds the keyword arguments of a plait model from a batch of rows (the columns of the task).

    Rows that share an image (the same image_id, path or bytes) refer to it by number in `image_indices`, and
    `pixel_values` holds each distinct image once. A text or image that is None is an absent modality.

    Args:
        processor: of the model.
        labels: the meaning of the label column; None: batches have no labels.
        task: a task or its name (see `plait.training.tasks`), which builds the batches.
        settings: of the task, as in a recipe.
        max_length: tokens of a text at most, if fewer than the tokenizer's own limit.
        seed: of random choices.

    Attributes:
        features: cached outputs of frozen towers by modality (set by PlaitTrainer); they replace the inputs of a batch
            if all of these are cached.
        image_cache: cache of processed images in the memory of each worker; it holds none unless it is replaced.
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
        """Builds a batch of the rows as they are."""
        with name_data_rows(rows):
            return self.task.build_batch(self, rows)

    def build_training_batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds a training batch: random choices in a row (one of several targets) depend only on seed, epoch and
        row."""
        with name_data_rows(rows):
            return self.task.build_batch(self, self.task.sample_rows(self, rows))

    def build_evaluation_batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds a batch for the task's StreamedMetrics: the model's inputs, and the references of its predictions."""
        with name_data_rows(rows):
            return self.task.build_evaluation_batch(self, rows)

    # earlier names of public methods and of `image_cache`
    training_batch = build_training_batch
    evaluation_batch = build_evaluation_batch
    inputs = RowEncoder.encode_inputs
    images = RowEncoder.encode_images
    start_epoch = RowEncoder.set_epoch

    @property
    def pictures(self) -> ImageCache:
        """The `image_cache`."""
        return self.image_cache

    @pictures.setter
    def pictures(self, cache: ImageCache) -> None:
        self.image_cache = cache
