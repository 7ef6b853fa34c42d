"""Scores rows that stand for the explained ones, in batches: in nats and, with labels, whether the answer is right."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...configuration import DOCUMENT
from ...modeling.attribution.state import explained
from ...modeling.attribution.target import Target, score
from ...modeling.losses.labels import IGNORE_INDEX
from ...modeling.tasks.masked_lm import PlaitForMaskedLM
from ...modeling.tasks.question_answering import PlaitForQuestionAnswering
from ...processing import PlaitProcessor
from ..data.label_vectors import build_vectors
from ..data.labels import MULTI, SINGLE, read_config_labels
from ..data.media import Row
from ..data.row_encoder import ImageCache, RowEncoder
from ..tasks.base import move_to_device
from .encoding import EncodedRows, encode_explained_rows
from .targets import find_targets

CACHED_IMAGES = 0.5  # GiB of processed images
# columns in which a target lies, by the class: without it there is nothing to score
TARGET_COLUMNS: dict[type, str] = {PlaitForQuestionAnswering: "context", PlaitForMaskedLM: "text"}


class RowScorer:
    """Scores rows that stand for some of the explained rows, each by the target of the row that it stands for.

    Args:
        model, processor: see `plait.explain`.
        rows: the explained rows.
        target: as in `plait.explain`; of None, what the model predicts for each of the explained rows.
        batch_size: of rows that are computed at once.
        max_length: the largest number of tokens of a text.

    Attributes:
        names: what is explained in each row. kind: of the targets. metric: the name of what the second score says of
            classes, "accuracy"; None for other targets, or if the rows have no labels.
    """

    def __init__(
        self,
        model: Any,
        processor: PlaitProcessor,
        rows: Sequence[Row],
        target: Any = None,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        self.model, self.processor, self.rows, self.max_length = model, processor, rows, max_length
        self.encoder = RowEncoder(processor, None, None, max_length, seed=0)
        self.encoder.image_cache = ImageCache(CACHED_IMAGES)
        self.encodes_together = isinstance(model, PlaitForQuestionAnswering) or model.config.inline
        self.names: list[str] = []
        self.wanted: list[Any] = []
        self.kind = "class"
        given = target if isinstance(target, list) else [target] * len(rows)
        if len(given) != len(rows):
            raise ValueError(f"{len(given)} targets for {len(rows)} rows: give one, or a list with one for each row")
        with explained(model):
            for start in range(0, len(rows), batch_size):
                self._fix_targets(rows[start : start + batch_size], given[start : start + batch_size])
        self.labels = self._read_labels()

    @property
    def metric(self) -> str | None:
        """The name of the second score."""
        return None if self.labels is None else "accuracy"

    def _fix_targets(self, rows: Sequence[Row], given: list[Any]) -> None:
        """Finds the targets of some rows, in a form that finds the same ones in other rows."""
        found = find_targets(self.model, self.processor, self.encode(rows), given)
        self.names += found.names
        self.kind = found.target.kind
        if self.kind in ("class", "value"):
            self.wanted += found.target.values.tolist()
        elif self.kind == "pair":
            self.wanted += [None] * len(rows)
        else:
            own = [want if want is not None else name for want, name in zip(given, found.names, strict=True)]
            self.wanted += [self._drop_special(text) for text in own]

    def _drop_special(self, text: Any) -> Any:
        """Returns a generated text without special tokens, such as its end; anything else unchanged."""
        if not isinstance(text, str) or self.kind != "tokens" or isinstance(self.model, PlaitForMaskedLM):
            return text
        for token in self.processor.target_tokenizer.all_special_tokens:
            text = text.replace(token, "")
        return text

    def _read_labels(self) -> Tensor | None:
        """Returns the labels of the rows: (rows,) ids, or (rows, classes) of 0 and 1, -100 where not known; None for
        other targets than classes, or rows without labels."""
        if self.kind != "class" or not self.rows or "label" not in self.rows[0]:
            return None
        spec = read_config_labels(self.model.config)
        values = [row["label"] for row in self.rows]
        ids = {name: number for number, name in enumerate(spec.names)}
        if spec.problem_type == MULTI:
            vectors: Any = [[ids.get(name, name) for name in own or ()] for own in values]
            return build_vectors(vectors, spec.count)
        numbers = [IGNORE_INDEX if value is None else ids.get(value, value) for value in values]
        wrong = [number for number in numbers if not isinstance(number, int)]
        if wrong:
            raise ValueError(f"label {wrong[0]!r} is no class of the model: choose one of {', '.join(spec.names)}")
        return torch.tensor(numbers) if spec.problem_type == SINGLE else None

    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Encodes rows; images that several of them share are processed once."""
        if self.encodes_together or DOCUMENT in rows[0]:
            return encode_explained_rows(self.model, self.processor, rows, self.max_length)
        return EncodedRows(rows, move_to_device(self.encoder.encode_inputs(rows), self.model), {}, {})

    def __call__(self, rows: Sequence[Row], numbers: Sequence[int]) -> np.ndarray:
        """Returns (rows, 1) scores or, with labels, (rows, 2) scores and whether the answer is right, NaN where the
        label is not known. rows: one batch; numbers: of the rows that they stand for."""
        with explained(self.model), torch.no_grad(), recorded_outputs(self.model) as outputs:
            found = find_targets(self.model, self.processor, self.encode(rows), [self.wanted[n] for n in numbers])
            nats = score(self.model, found.inputs, found.target).double().cpu()
        columns = [nats]
        if self.labels is not None:
            columns.append(compare_labels(outputs[-1].logits.float().cpu(), self.labels[list(numbers)]).double())
        return torch.stack(columns, dim=1).numpy()

    def score_probability(self, rows: Sequence[Row], numbers: Sequence[int]) -> np.ndarray:
        """Returns (rows,) probabilities of the targets: of a class, of an answer, of a text the geometric mean over its
        tokens; of numbers and similarities the score itself."""
        with explained(self.model), torch.no_grad():
            found = find_targets(self.model, self.processor, self.encode(rows), [self.wanted[n] for n in numbers])
            nats = score(self.model, found.inputs, found.target).double().cpu()
        return to_probability(nats, found.target).numpy()


def to_probability(nats: Tensor, target: Target) -> Tensor:
    """Returns exp(score) of log-probabilities, of a text by its number of tokens; other scores unchanged."""
    if target.kind in ("value", "pair"):
        return nats
    tokens = (target.values != IGNORE_INDEX).sum(1).clamp(min=1).cpu() if target.kind == "tokens" else 1
    return (nats / tokens).exp()


@contextmanager
def recorded_outputs(model: Any) -> Iterator[list[Any]]:
    """Collects the outputs of the model's calls inside this block."""
    kept: list[Any] = []
    handle = model.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        yield kept
    finally:
        handle.remove()


def compare_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns (rows,) 1 where the answer is right, of several classes the share of them that is; NaN where no label is
    known."""
    if labels.ndim == 1:
        right = (logits.argmax(-1) == labels).double()
        return right.masked_fill(labels == IGNORE_INDEX, torch.nan)
    known = labels != IGNORE_INDEX
    right = ((logits > 0) == (labels > 0.5)) & known
    return right.sum(1) / known.sum(1)
