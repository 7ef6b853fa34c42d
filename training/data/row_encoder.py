"""Rows to the inputs of a model, whatever the task."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from ...processing import PlaitProcessor
from .feature_cache import FeatureStore
from .inputs import image_inputs, media_inputs, pictures_of, text_inputs, text_key
from .labels import Labels
from .media import Row, items_of


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


class RowEncoder:
    """Encodes rows as the inputs of a model: the half of a data collator that knows no task.

    Args:
        processor: of the model.
        labels: what the label column means; None: batches have no labels.
        settings: of the task.
        max_length: tokens a text, fewer than the tokenizer's own limit.
        seed: of what is drawn at random.
    """

    def __init__(
        self, processor: PlaitProcessor, labels: Labels | None, settings: Any, max_length: int | None, seed: int
    ) -> None:
        self.processor = processor
        self.labels = labels
        self.settings = settings
        self.max_length = max_length
        self.seed = seed
        self.features: dict[str, FeatureStore] = {}
        self.pictures = PictureCache(0.0)
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # the loader's workers see it change

    def start_epoch(self, number: int) -> None:
        """What is drawn from now on is that of this epoch."""
        self.epoch.fill_(number)

    def draw(self, count: int, *about: str) -> int:
        """A number below `count` that depends on the seed, the epoch and these words alone."""
        digest = sha256(json.dumps([self.seed, int(self.epoch), *about]).encode()).digest()
        return int.from_bytes(digest[:8], "big") % count

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
