"""Encodes many rows as vectors in one space, and classifies images by labels in words (zero-shot)."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from reprlib import repr as short
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ...configuration import DOCUMENT, PlaitTextConfig
from ...configuration.modalities import MODALITY_TABLE
from ..outputs import TowerOutput
from .single_items import is_single_item

TEMPLATES = ("This is a photo of {}.",)


class Embedder(Protocol):
    """A model that embeds rows of several sides in one space, such as `PlaitForRetrieval`."""

    config: Any
    similarity: Any
    loss: Any
    training: bool

    @property
    def device(self) -> Any: ...
    def get_features(self, side: str, inputs: Mapping[str, Any]) -> TowerOutput: ...
    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...


def encode_rows(
    model: Embedder,
    rows: Any,
    processor: Callable[..., Mapping[str, Any]],
    side: str | None = None,
    *,
    batch_size: int = 64,
    normalize: bool = True,
    prompt: str | None = None,
    show_progress: bool = True,
    **options: Any,
) -> Tensor:
    """Encodes any number of texts, images, audio clips or videos as vectors, (rows, width) on the CPU, in their order;
    one item (see `is_single_item`) as one vector, (width).

    Args:
        rows: inputs of the processor for the side's modality. Texts of similar length share a batch.
        processor: a `PlaitProcessor`, or another callable with `text=`, `images=`, `audio=` or `videos=`.
        side: "text", "image", "audio", "video" or "document"; None: "text" if the rows are strings and the model has a
            text tower, else its first other side.
        batch_size: rows in each batch.
        normalize: scale every vector to unit length, so that the dot product of two is their cosine.
        prompt: text to put before every text ("query: "); None: the default of the processor, if it has prompts.
        show_progress: show a progress bar if there are several batches.
        options: options of the processor's call (`sampling_rate=16000` of clips that are bare arrays).

    Raises:
        TypeError: a row of another modality than the side's; the message names it.
        ValueError: a side that the model lacks, no rows, or a row with nothing to read, which the message names.
    """
    sides, rows = model.config.sides, as_sequence(rows)
    side = side or find_side(rows, sides)
    if side not in sides:
        raise ValueError(f"this model has no {side} side, only {', '.join(sides)}")
    single = is_single_item(rows, sides[side])
    rows = [rows] if single else rows
    check_rows(rows, side, sides[side])
    texts = sides[side] == "text"
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row])) if texts else list(range(len(rows)))
    starts = tqdm(
        range(0, len(rows), batch_size), f"{side} vectors", disable=not show_progress or len(rows) <= batch_size
    )
    vectors: list[Tensor] = []
    with use_eval_mode(model):
        for start in starts:
            given = {row: rows[row] for row in order[start : start + batch_size]}
            vectors.append(encode_batch(model, given, processor, side, prompt, options))
    found = torch.cat(vectors)[torch.tensor(order).argsort()]
    found = F.normalize(found, dim=-1) if normalize else found
    return found[0] if single else found


def as_sequence(rows: Any) -> Any:
    """Returns a collection that is not indexed from 0 (a pandas Series, a set) as a list, any other value unchanged."""
    collected: Any = rows
    kept = isinstance(rows, (Sequence, Mapping, np.ndarray, Tensor)) or not isinstance(rows, Sized)
    return rows if kept else list(collected)


def check_rows(rows: Sequence[Any], side: str, modality: str) -> None:
    """Checks the number of rows, and the type of texts.

    Raises:
        TypeError: a row that is not a string, for a side of texts.
        ValueError: no rows, or a text that is None.
    """
    if not len(rows):
        raise ValueError("nothing to encode: there are no rows, pass at least one")
    for number, row in enumerate(rows if modality == "text" else ()):
        if row is None:
            raise build_empty_row_error(number, row)
        if not isinstance(row, str):
            raise TypeError(
                f"row {number} is of type {type(row).__name__}, but the side {side!r} reads texts: pass rows of one "
                'modality in each call, and name their side (side="image")'
            )


def build_empty_row_error(number: int, row: Any) -> ValueError:
    """Builds the error for a row that has no token, image, clip or video."""
    return ValueError(f"row {number} is {short(row)}, in which there is nothing to read: leave this row out")


def encode_batch(
    model: Embedder,
    rows: Mapping[int, Any],
    processor: Callable[..., Mapping[str, Any]],
    side: str,
    prompt: str | None,
    options: Mapping[str, Any],
) -> Tensor:
    """Encodes one batch, rows by their number, as projected vectors, (rows, width), on the CPU.

    Raises ValueError for a row with nothing to read.
    """
    modality, options = model.config.sides[side], {**build_text_options(model, side), **options}
    given = list(rows.values())
    for number, row in rows.items():
        if row is None:
            raise build_empty_row_error(number, row)
    if modality == "text" and prompt is not None:
        if hasattr(processor, "prompts"):  # it puts a prompt of its own before the texts, unless it is told another
            options["prompt"] = prompt
        else:
            given = [prompt + row for row in given]
    try:
        inputs = processor(**{MODALITY_TABLE[modality].processor_argument: given}, return_tensors="pt", **options)
    except Exception as error:
        if next(iter(rows)):
            error.add_note(f"row 0 of this batch is row {next(iter(rows))} of all")
        raise
    check_present_items(modality, rows, inputs)
    output: Any = model.get_features(side, {name: value.to(model.device) for name, value in inputs.items()})
    return output.pooler_output.float().cpu()


def check_present_items(modality: str, rows: Mapping[int, Any], inputs: Mapping[str, Any]) -> None:
    """Raises ValueError for a row that has no token, image, clip or video in the inputs of a batch."""
    present = inputs.get("attention_mask" if modality == "text" else MODALITY_TABLE[modality].present_input)
    if present is not None and present.ndim == 2 and not bool(present.any(dim=1).all()):
        number = list(rows)[int((~present.bool().any(dim=1)).nonzero()[0])]
        raise build_empty_row_error(number, rows[number])


def build_text_options(model: Embedder, side: str) -> dict[str, Any]:
    """Returns the tokenizer's options of padding and truncation: a tower that pools its last position (SigLIP) was
    trained on texts padded to one length."""
    if model.config.sides[side] != "text":
        return {}
    tower = model.config.towers.get(side) or model.config.towers["text"]
    if isinstance(tower, PlaitTextConfig) and tower.pooling == "final":
        return {"padding": "max_length", "max_length": tower.max_position_embeddings, "truncation": True}
    return {"padding": True, "truncation": True}


def classify_zero_shot(
    model: Embedder,
    images: Any,
    labels: str | Sequence[str],
    processor: Callable[..., Mapping[str, Any]],
    *,
    templates: str | Sequence[str] = TEMPLATES,
    batch_size: int = 64,
    show_progress: bool = True,
) -> Tensor:
    """Computes the probability of each label for each image, (images, labels), for one image (labels): a softmax over
    the labels, or a sigmoid for each label if the model was trained with the sigmoid loss.

    Args:
        labels: a string is one label.
        templates: texts with {} in place of a label; a label's vector is the mean over them (CLIP, section 3.1.4,
            prompt ensembling). A string is one template.
        batch_size, show_progress: as in `encode_rows`.

    Raises:
        TypeError: a label or template that is not a string.
        ValueError: no labels, or equal ones; no templates, or one without {}.
    """
    labels = [labels] if isinstance(labels, str) else labels
    classes = encode_label_texts(model, labels, processor, templates=templates, batch_size=batch_size)
    image_vectors = encode_rows(model, images, processor, "image", batch_size=batch_size, show_progress=show_progress)
    with torch.no_grad():
        logits = model.similarity(image_vectors.to(model.device), classes.to(model.device)).float().cpu()
    return logits.sigmoid() if model.loss.kind == "sigmoid" else logits.softmax(dim=-1)


def encode_label_texts(
    model: Embedder,
    labels: str | Sequence[str],
    processor: Callable[..., Mapping[str, Any]],
    *,
    templates: str | Sequence[str] = TEMPLATES,
    batch_size: int = 64,
) -> Tensor:
    """Encodes labels as (labels, width), one label as (width), of unit length: the mean over the templates of a label's
    text vectors.

    Raises:
        TypeError: a label or template that is not a string.
        ValueError: no labels or equal ones, and no templates or one without {}.
    """
    names, patterns = list_strings(labels, "label"), list_strings(templates, "template")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"labels must be one or more texts that differ, got {names}")
    if not patterns or any("{}" not in template for template in patterns):
        raise ValueError(f"every template has {{}} in place of the label, got {patterns}: add it")
    texts = [template.format(label) for label in names for template in patterns]
    vectors = encode_rows(model, texts, processor, "text", batch_size=batch_size, show_progress=False)
    found = F.normalize(vectors.view(len(names), len(patterns), -1).mean(dim=1), dim=-1)
    return found[0] if isinstance(labels, str) else found


def list_strings(given: str | Sequence[str], what: str) -> list[str]:
    """Returns the strings of a list, or of one string. Raises TypeError for a value that is not a string."""
    found = [given] if isinstance(given, str) else list(given)
    for number, value in enumerate(found):
        if not isinstance(value, str):
            raise TypeError(f"{what} {number} is {short(value)} ({type(value).__name__}): pass strings")
    return found


def find_side(rows: Any, sides: Mapping[str, str]) -> str:
    """Returns the default side of rows: "text" for strings if the model has that side, else its first other side."""
    given = isinstance(rows, (Sequence, np.ndarray)) and not isinstance(rows, str)
    first = next((row for row in rows if row is not None), None) if given else rows
    if isinstance(first, str) and "text" in sides:
        return "text"
    return next((side for side in sides if side not in ("text", DOCUMENT)), next(iter(sides)))


@contextmanager
def use_eval_mode(model: Embedder) -> Iterator[None]:
    """Sets the model to eval mode, without gradients, and restores its mode at the end."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
