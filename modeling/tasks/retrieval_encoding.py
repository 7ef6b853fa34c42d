"""Encodes many rows as vectors in one space, and classifies images by labels in words (zero-shot)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ...configuration import DOCUMENT, PlaitTextConfig
from ...configuration.modalities import MODALITY_TABLE
from ..outputs import TowerOutput

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
    rows: Sequence[Any],
    processor: Callable[..., Mapping[str, Any]],
    side: str | None = None,
    *,
    batch_size: int = 64,
    normalize: bool = True,
    prompt: str | None = None,
    show_progress: bool = True,
) -> Tensor:
    """Encodes any number of texts, images, audio clips or videos as vectors, (rows, width) on the CPU, in their order.

    Args:
        rows: inputs of the processor for the side's modality. Texts of similar length share a batch.
        processor: a `PlaitProcessor`, or another callable with `text=`, `images=`, `audio=` or `videos=`.
        side: "text", "image", "audio", "video" or "document"; None: "text" if the rows are strings and the model has a
            text tower, else its first other side.
        batch_size: rows in each batch.
        normalize: scale every vector to unit length, so that the dot product of two is their cosine.
        prompt: text to put before every text ("query: "); None: the default of the processor, if it has prompts.
        show_progress: show a progress bar if there are several batches.

    Raises:
        ValueError: a side that the model lacks, or no rows.
    """
    sides = model.config.sides
    side = side or find_side(rows, sides)
    if side not in sides:
        raise ValueError(f"this model has no {side} side, only {', '.join(sides)}")
    if not len(rows):
        raise ValueError("nothing to encode: there are no rows, pass at least one")
    texts = sides[side] == "text"
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row])) if texts else list(range(len(rows)))
    starts = tqdm(
        range(0, len(rows), batch_size), f"{side} vectors", disable=not show_progress or len(rows) <= batch_size
    )
    vectors: list[Tensor] = []
    with use_eval_mode(model):
        for start in starts:
            given = [rows[row] for row in order[start : start + batch_size]]
            vectors.append(encode_batch(model, given, processor, side, prompt))
    found = torch.cat(vectors)[torch.tensor(order).argsort()]
    return F.normalize(found, dim=-1) if normalize else found


def encode_batch(
    model: Embedder,
    rows: Sequence[Any],
    processor: Callable[..., Mapping[str, Any]],
    side: str,
    prompt: str | None = None,
) -> Tensor:
    """Encodes one batch as projected vectors, (rows, width), on the CPU."""
    modality, options = model.config.sides[side], build_text_options(model, side)
    if modality == "text" and prompt is not None:
        if hasattr(processor, "prompts"):  # it puts a prompt of its own before the texts, unless it is told another
            options["prompt"] = prompt
        else:
            rows = [prompt + row for row in rows]
    argument = MODALITY_TABLE[modality].processor_argument
    inputs = processor(**{argument: list(rows)}, return_tensors="pt", **options)
    given = {name: value.to(model.device) for name, value in inputs.items()}
    output: Any = model.get_features(side, given)
    return output.pooler_output.float().cpu()


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
    images: Sequence[Any],
    labels: Sequence[str],
    processor: Callable[..., Mapping[str, Any]],
    *,
    templates: Sequence[str] = TEMPLATES,
    batch_size: int = 64,
    show_progress: bool = True,
) -> Tensor:
    """Computes the probability of each label for each image, (images, labels): a softmax over the labels, or a sigmoid
    for each label if the model was trained with the sigmoid loss.

    Args:
        templates: texts with {} in place of a label; a label's vector is the mean over them (CLIP, section 3.1.4,
            prompt ensembling).
        batch_size, show_progress: as in `encode_rows`.

    Raises:
        ValueError: no labels, or equal ones; no templates, or one without {}.
    """
    classes = encode_label_texts(model, labels, processor, templates=templates, batch_size=batch_size)
    options = {"batch_size": batch_size, "show_progress": show_progress}
    image_vectors = encode_rows(model, images, processor, "image", **options)
    with torch.no_grad():
        logits = model.similarity(image_vectors.to(model.device), classes.to(model.device)).float().cpu()
    return logits.sigmoid() if model.loss.kind == "sigmoid" else logits.softmax(dim=-1)


def encode_label_texts(
    model: Embedder,
    labels: Sequence[str],
    processor: Callable[..., Mapping[str, Any]],
    *,
    templates: Sequence[str] = TEMPLATES,
    batch_size: int = 64,
) -> Tensor:
    """Encodes labels as (labels, width), of unit length: the mean over the templates of a label's text vectors.

    Raises ValueError for no labels or equal ones, and for no templates or one without {}.
    """
    if not labels or len(set(labels)) < len(labels):
        raise ValueError(f"labels must be one or more texts that differ, got {list(labels)}")
    if not templates or any("{}" not in template for template in templates):
        raise ValueError(f"every template has {{}} in place of the label, got {list(templates)}: add it")
    texts = [template.format(label) for label in labels for template in templates]
    vectors = encode_rows(model, texts, processor, "text", batch_size=batch_size, show_progress=False)
    return F.normalize(vectors.view(len(labels), len(templates), -1).mean(dim=1), dim=-1)


def find_side(rows: Sequence[Any], sides: Mapping[str, str]) -> str:
    """Returns the default side of rows: "text" for strings if the model has that side, else its first other side."""
    if len(rows) and isinstance(rows[0], str) and "text" in sides:
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
