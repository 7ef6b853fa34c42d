"""Turns rows into the inputs of a model, independently of the task."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from ...configuration import MODALITIES
from ...processing import PlaitProcessor
from ...processing.errors import name_error
from ...processing.target_images import TARGET_IMAGES, process_target_image
from .feature_cache import FeatureStore
from .inputs import compute_text_key, encode_items, encode_media_inputs, encode_text_inputs
from .labels import LabelSpec
from .media import READ_ERRORS, TARGET_IMAGE, Row, collect_batch_items, collect_items


class ImageCache:
    """A cache of processed images that keeps the most recently used, up to `limit` GiB (0: none)."""

    part = "image_processor"

    def __init__(self, limit: float) -> None:
        self.limit = int(limit * 2**30)
        self.size = 0
        self.kept: OrderedDict[str, Tensor] = OrderedDict()
        self.settings: dict[str, Any] | None = None

    def process_images(self, processor: PlaitProcessor, images: Mapping[str, Any], names: Sequence[str] = ()) -> Tensor:
        """Processes images by key, or takes them from the cache: (images, channels, height, width).

        names: what an error calls each image; default: image 0, image 1, ...
        """
        self._check_settings(processor)
        named = dict(zip(images, names or [f"image {number}" for number in range(len(images))], strict=True))
        new = [key for key in images if key not in self.kept]
        processed: dict[str, Tensor] = {}
        if new:
            values = self._process([images[key] for key in new], processor, [named[key] for key in new])
            processed = dict(zip(new, values, strict=True))
        result = torch.stack([processed[key] if key in processed else self.kept[key] for key in images])
        for key in images:
            self._store(key, processed.get(key))
        return result

    def _check_settings(self, processor: PlaitProcessor) -> None:
        """Forgets the images that were processed with other settings."""
        part = processor.find_part(self.part)
        if not self.limit or part is None:
            return
        settings = part.to_dict()
        if settings != self.settings:
            self.settings, self.size = settings, 0
            self.kept.clear()

    def _process(self, images: Sequence[Any], processor: PlaitProcessor, names: Sequence[str]) -> Tensor:
        return encode_items(processor, "image", images, names)["pixel_values"]

    def _store(self, key: str, pixels: Tensor | None) -> None:
        if pixels is None:
            if key in self.kept:  # an image stored just now may have displaced it
                self.kept.move_to_end(key)
        elif self.limit:
            self.kept[key] = pixels.clone()
            self.size += pixels.nbytes
            while self.size > self.limit:
                self.size -= self.kept.popitem(last=False)[1].nbytes


class TargetImageCache(ImageCache):
    """An `ImageCache` of target images."""

    part = "target_image_processor"
    crop: tuple[int, int] | None = (
        None  # height and width of the images that are processed next, if not the processor's
    )

    def _process(self, images: Sequence[Any], processor: PlaitProcessor, names: Sequence[str]) -> Tensor:
        part = processor.require_target_processor()
        pairs = zip(images, names, strict=True)
        arrays = [process_target_image(part, image, name, self.crop) for image, name in pairs]
        return torch.stack([torch.from_numpy(array) for array in arrays])


class RowEncoder:
    """Encodes rows as the inputs of a model: the part of a data collator that does not depend on the task.

    Args:
        processor: the model's processor.
        labels: meaning of the label column; None: batches have no labels.
        settings: settings of the task.
        max_length: the largest number of tokens of a text; None: the tokenizer's limit.
        seed: seed of all random choices.
    """

    def __init__(
        self, processor: PlaitProcessor, labels: LabelSpec | None, settings: Any, max_length: int | None, seed: int
    ) -> None:
        self.processor = processor
        self.labels = labels
        self.settings = settings
        self.max_length = max_length
        self.seed = seed
        self.features: dict[str, FeatureStore] = {}
        self.image_cache = ImageCache(0.0)
        self.target_cache = TargetImageCache(0.0)
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # the loader's workers see it change

    def set_epoch(self, number: int) -> None:
        """Sets the epoch on which random choices depend from now on."""
        self.epoch.fill_(number)

    def draw(self, count: int, *about: str) -> int:
        """Returns a random number below `count` that depends only on the seed, the epoch and the words `about`."""
        digest = sha256(json.dumps([self.seed, int(self.epoch), *about]).encode()).digest()
        return int.from_bytes(digest[:8], "big") % count

    def encode_inputs(self, rows: Sequence[Row], whole_clips: bool = False) -> dict[str, Any]:
        """Returns the model inputs of each modality in the rows, or cached tower outputs (as `encoder_outputs`).

        whole_clips: keep audio clips that are longer than the feature extractor reads at once, for `generate`.
        """
        batch: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        read = {"text": self._encode_text, "image": self.encode_images}
        for modality in MODALITIES:
            inputs = read[modality](rows) if modality in read else self._encode_media(rows, modality, whole_clips)
            if "last_hidden_state" in inputs:
                outputs[modality] = inputs
            else:
                batch |= inputs
        return {**batch, "encoder_outputs": outputs} if outputs else batch

    def encode_images(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Returns the inputs for the rows' images, each distinct image once; an empty dict if no row has an image."""
        images = collect_batch_items(rows, "image")
        distinct = {key: image for row in images for key, image in row}
        if not distinct:
            return {}
        store = self.features.get("image")
        if store is not None and store.has_keys(distinct):
            return store.gather([[key for key, _ in row] for row in images])
        numbers = {key: number for number, key in enumerate(distinct)}
        indices, first = torch.full((len(rows), max(map(len, images))), -1), {}
        for row, named in enumerate(images):
            for place, (key, _) in enumerate(named):
                indices[row, place] = numbers[key]
                first.setdefault(key, f"images, row {row}")
        pixels = self.image_cache.process_images(self.processor, distinct, list(first.values()))
        return {"pixel_values": pixels, "image_indices": indices}

    def encode_target_images(self, rows: Sequence[Row], size: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """Returns `target_pixel_values` (batch, channels, height, width) of the column `target_image`, each distinct
        image processed once; every error names the row. size: height and width, in place of the processor's."""
        keys, distinct, names = [], {}, []
        for number, row in enumerate(rows):
            where = f"{TARGET_IMAGES}, row {number}"
            try:
                ((key, image),) = collect_items(row, TARGET_IMAGE) or [("", None)]
            except READ_ERRORS as error:
                raise name_error(error, where) from error
            if image is None:
                raise ValueError(f"{where}: there is no image: leave this row out")
            keys.append(f"{key}{size or ''}")
            if keys[-1] not in distinct:
                distinct[keys[-1]] = image
                names.append(where)
        self.target_cache.crop = size
        pixels = self.target_cache.process_images(self.processor, distinct, names)
        numbers = {key: number for number, key in enumerate(distinct)}
        return {"target_pixel_values": pixels[[numbers[key] for key in keys]]}

    def _encode_text(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        if "text" not in rows[0]:
            return {}
        store = self.features.get("text")
        if store is not None:
            keys = [compute_text_key(row, self.max_length) for row in rows]
            if store.has_keys(keys):
                return store.gather([[] if key is None else [key] for key in keys])
        return encode_text_inputs(self.processor, rows, self.max_length)

    def _encode_media(self, rows: Sequence[Row], modality: str, whole_clips: bool) -> dict[str, Tensor]:
        """Returns the inputs for the rows' audio clips or videos; an empty dict if no row has any."""
        found = collect_batch_items(rows, modality)
        items = [[item for _, item in row] for row in found]
        if whole_clips and modality == "audio":  # what is stored is of clips truncated at the extractor's limit
            return encode_media_inputs(self.processor, modality, items, {"audio_kwargs": {"truncation": False}})
        store, keys = self.features.get(modality), [[key for key, _ in row] for row in found]
        if store is not None and any(keys) and store.has_keys([key for row in keys for key in row]):
            return store.gather(keys)
        return encode_media_inputs(self.processor, modality, items)
