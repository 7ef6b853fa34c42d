"""Rows to tensors: pictures are opened here, in the loader's workers, and each distinct one is processed once."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from ...processing import PlaitProcessor
from ..data.feature_cache import FeatureStore
from ..data.inputs import image_inputs, media_inputs, pictures_of, text_inputs, text_key
from ..data.labels import Labels
from ..data.media import Row, items_of
from .registry import find_task


class PlaitDataCollator:
    """A batch of rows (the columns that the task reads) as the keyword arguments of a plait model.

    Rows that share a picture (the same image_id, path or bytes) name it by number in `image_indices`, and
    `pixel_values` holds each distinct picture once. A text or picture that is None is an absent modality.

    Args:
        processor: of the model.
        labels: what the label column means; None: batches have no labels.
        task: the name of a task (see `plait.training.tasks`), which makes the labels.
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
        labels: Labels | None = None,
        *,
        task: str = "classification",
        settings: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        self.processor = processor
        self.labels = labels
        self.task = find_task(task)
        self.settings = self.task.make_settings(settings or {})
        self.max_length = max_length
        self.seed = seed
        self.features: dict[str, FeatureStore] = {}
        self.pictures = PictureCache(0.0)
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # the loader's workers see it change

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        return self.task.batch(self, rows)

    def training_batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """A batch of this epoch: where a row leaves a choice, it is drawn by seed, epoch and row alone."""
        return self.task.batch(self, self.task.drawn(self, rows))

    def start_epoch(self, number: int) -> None:
        """What is drawn from now on is that of this epoch."""
        self.epoch.fill_(number)

    def draw(self, count: int, *about: str) -> int:
        """A number below `count` that depends on the seed, the epoch and these words alone."""
        digest = sha256(json.dumps([self.seed, int(self.epoch), *about]).encode()).digest()
        return int.from_bytes(digest[:8], "big") % count

    def evaluation_batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What the task's StreamedMetrics read: the model's inputs and what its answers are compared with."""
        return self.task.evaluation_batch(self, rows)

    def inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What the rows hold of each modality, or (as `encoder_outputs`) what towers made of it before."""
        batch: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        read = {"text": self._text, "image": self.images, "audio": self._audio, "video": self._video}
        for modality, inputs in ((modality, reader(rows)) for modality, reader in read.items()):
            if "last_hidden_state" in inputs:
                outputs[modality] = inputs
            else:
                batch |= inputs
        return {**batch, "encoder_outputs": outputs} if outputs else batch

    def images(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The pictures of the rows, nothing where no row has one."""
        pictures = [pictures_of(row) for row in rows]
        distinct = {key: picture for row in pictures for key, picture in row}
        if not distinct:
            return {}
        store = self.features.get("image")
        if store is not None and store.holds(distinct):
            return store.gather([[key for key, _ in row] for row in pictures])
        numbers = {key: number for number, key in enumerate(distinct)}
        indices = torch.full((len(rows), max(map(len, pictures))), -1)
        for row, named in enumerate(pictures):
            for place, (key, _) in enumerate(named):
                indices[row, place] = numbers[key]
        return {"pixel_values": self.pictures.pixels(self.processor, distinct), "image_indices": indices}

    def _text(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        if "text" not in rows[0]:
            return {}
        store = self.features.get("text")
        if store is not None:
            keys = [text_key(row, self.max_length) for row in rows]
            if store.holds(keys):
                return store.gather([[] if key is None else [key] for key in keys])
        return text_inputs(self.processor, rows, self.max_length)

    def _audio(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        return self._media(rows, "audio")

    def _video(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        return self._media(rows, "video")

    def _media(self, rows: Sequence[Row], modality: str) -> dict[str, Tensor]:
        """The rows' clips or videos, nothing where no row has one."""
        found = [items_of(row, modality) for row in rows]
        store, keys = self.features.get(modality), [[key for key, _ in row] for row in found]
        if store is not None and any(keys) and store.holds([key for row in keys for key in row]):
            return store.gather(keys)
        return media_inputs(self.processor, modality, [[item for _, item in row] for row in found])


class PictureCache:
    """Processed pictures, the most recently used up to `limit` GiB (0: none is kept)."""

    def __init__(self, limit: float) -> None:
        self.limit = int(limit * 2**30)
        self.size = 0
        self.kept: OrderedDict[str, Tensor] = OrderedDict()

    def pixels(self, processor: PlaitProcessor, pictures: Mapping[str, Any]) -> Tensor:
        """(pictures, channels, height, width)."""
        new = [key for key in pictures if key not in self.kept]
        processed = dict(zip(new, image_inputs(processor, [pictures[key] for key in new]), strict=True)) if new else {}
        result = torch.stack([processed[key] if key in processed else self.kept[key] for key in pictures])
        for key in pictures:
            self._keep(key, processed.get(key))
        return result

    def _keep(self, key: str, pixels: Tensor | None) -> None:
        if pixels is None:
            self.kept.move_to_end(key)
        elif self.limit:
            self.kept[key] = pixels.clone()
            self.size += pixels.nbytes
            while self.size > self.limit:
                self.size -= self.kept.popitem(last=False)[1].nbytes
