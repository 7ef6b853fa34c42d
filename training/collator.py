"""Rows to tensors: pictures are opened here, in the loader's workers, and each distinct one is processed once."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling

from ..processing import PlaitProcessor
from .features import FeatureStore
from .inputs import Row, image_inputs, pictures_of, text_inputs, text_key, tokenizer_in
from .labels import Labels
from .metrics import MULTI, REGRESSION
from .recipe import Task


class PlaitDataCollator:
    """A batch of rows (columns text, text_pair, image, image_id, label) as the keyword arguments of a plait model.

    Rows that share a picture (the same image_id, path or bytes) name it by number in `image_indices`, and
    `pixel_values` holds each distinct picture once. A text or picture that is None is an absent modality.

    Args:
        processor: of the model.
        labels: what the label column means; None: batches have no labels.
        task: `masked_lm` masks the text (labels are the masked tokens). Masks are drawn from `seed` and the batch's
            own tokens, so that a batch gets the same ones whoever loads it: evaluations are comparable, and a resumed
            run goes on exactly.
        features: outputs of frozen towers by modality; a batch whose inputs are all in there gets those instead.
        max_length: tokens a text, fewer than the tokenizer's own limit.
        image_cache: GiB of processed pictures kept in memory (by each worker).
    """

    def __init__(
        self,
        processor: PlaitProcessor,
        labels: Labels | None = None,
        *,
        task: Task = "classification",
        features: Mapping[str, FeatureStore] | None = None,
        max_length: int | None = None,
        mlm_probability: float = 0.15,
        seed: int = 0,
        image_cache: float = 0.0,
    ) -> None:
        self.processor = processor
        self.labels = labels
        self.task = task
        self.features = dict(features or {})
        self.max_length = max_length
        self.seed = seed
        self.pictures = PictureCache(image_cache)
        self.masking = None
        if task == "masked_lm":
            self.masking = DataCollatorForLanguageModeling(tokenizer_in(processor), mlm_probability=mlm_probability)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        # labels come first: the Trainer reads the number of rows from the first tensor
        batch: dict[str, Any] = self._labels(rows)
        outputs: dict[str, Any] = {}
        for modality, inputs in (("text", self._text(rows)), ("image", self._images(rows))):
            if "last_hidden_state" in inputs:
                outputs[modality] = inputs
            else:
                batch |= inputs
        if outputs:
            batch["encoder_outputs"] = outputs
        return batch if self.masking is None else {**batch, **masked(self.masking, batch["input_ids"], self.seed)}

    def _labels(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        if self.labels is None or self.task != "classification" or "label" not in rows[0]:
            return {}
        values = [row["label"] for row in rows]
        if self.labels.problem_type == REGRESSION:
            return {"labels": torch.tensor(values, dtype=torch.float)}
        if self.labels.problem_type != MULTI:
            return {"labels": torch.tensor(values, dtype=torch.long)}
        labels = torch.zeros(len(values), self.labels.count)
        for row, ids in enumerate(values):
            labels[row, ids] = 1.0
        return {"labels": labels}

    def _text(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        if "text" not in rows[0]:
            return {}
        store = self.features.get("text")
        if store is not None:
            keys = [text_key(row, self.max_length) for row in rows]
            if store.holds(keys):
                return store.gather([[] if key is None else [key] for key in keys])
        return text_inputs(self.processor, rows, self.max_length)

    def _images(self, rows: Sequence[Row]) -> dict[str, Tensor]:
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


def masked(masking: DataCollatorForLanguageModeling, tokens: Tensor, seed: int) -> dict[str, Tensor]:
    """Masked `input_ids` and their `labels`; the masks depend on the seed and the batch's tokens alone."""
    digest = sha256(f"{seed}".encode() + tokens.numpy().tobytes()).digest()
    masking.generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    input_ids, labels = masking.torch_mask_tokens(tokens)
    return {"labels": labels, "input_ids": input_ids}
