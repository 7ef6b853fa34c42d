"""Agreement of generated images with their condition, as a classifier or a retrieval model sees it."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ....modeling.tasks.retrieval_encoding import Embedder, encode_rows, use_eval_mode
from ..bootstrap import Interval
from .arrays import Array, build_pil_images, read_features, read_images, read_numbers
from .intervals import compute_wilson_interval, estimate_mean


class Agreement(NamedTuple):
    """A score of images with their own conditions, with shuffled conditions, and the paired difference of the two over
    the rows, each with its 95 % interval."""

    own: Interval
    shuffled: Interval
    difference: Interval


def measure_agreement(
    predictions: Array, wanted: Array, groups: Array | None = None, resamples: int = 2000, seed: int = 0
) -> Agreement:
    """Measures how often the class that is seen in an image is the one that was asked for.

    Args:
        predictions: (images,) class numbers, or (images, classes) logits, probabilities or similarities of which the
            largest counts. A retrieval model is a classifier whose classes are the distinct captions.
        wanted: (images,) the class that each image was asked to show.
        groups: (images,) the prompt of each image, if several images have one prompt: they are resampled together.
        resamples: bootstrap resamples.
        seed: of the random generator.

    Returns the shares, 0..1: `own` has the Wilson interval (with groups a bootstrap interval), `shuffled` is the mean
    over all permutations of `wanted`, which needs no random draw.

    Raises:
        TypeError: class numbers that are not integers.
        ValueError: shapes that do not match, NaN, or a class outside the logits.
    """
    classes = _select_classes(predictions)
    asked = read_numbers(wanted, classes.size, "wanted")
    width = predictions.shape[1] if predictions.ndim == 2 else None
    if width is not None and not ((asked >= 0) & (asked < width)).all():
        raise ValueError(f"wanted classes reach from {asked.min()} to {asked.max()}: the logits have {width} classes")
    right = classes == asked
    values, counts = np.unique(asked, return_counts=True)
    shares = dict(zip(values.tolist(), (counts / asked.size).tolist(), strict=True))
    shuffled = np.array([shares.get(number, 0.0) for number in classes.tolist()])
    return _compare(right.astype(float), shuffled, groups, resamples, seed)


def measure_similarity(
    images: Array, conditions: Array, wanted: Array, groups: Array | None = None, resamples: int = 2000, seed: int = 0
) -> Agreement:
    """Measures the mean cosine of each image's vector with the vector of its own condition (CLIPScore without its
    factor, Hessel et al. 2021, https://arxiv.org/abs/2104.08718) and with the conditions of all rows.

    Args:
        images: (images, width) vectors of a retrieval model, of any length.
        conditions: (conditions, width) vectors of the conditions.
        wanted: (images,) the number of each image's condition.
        groups, resamples, seed: as in `measure_agreement`.

    Raises:
        TypeError: condition numbers that are not integers.
        ValueError: shapes that do not match, NaN, a vector of zeros, or a number that no condition has.
    """
    rows, others = _normalize(images, "images"), _normalize(conditions, "conditions")
    asked = read_numbers(wanted, len(rows), "wanted")
    if rows.shape[1] != others.shape[1] or not ((asked >= 0) & (asked < len(others))).all():
        raise ValueError(
            f"images of width {rows.shape[1]} ask for conditions {asked.min()} to {asked.max()}: there are "
            f"{len(others)} of width {others.shape[1]}"
        )
    own = (rows * others[asked]).sum(axis=1)
    return _compare(own, rows @ others[asked].mean(axis=0), groups, resamples, seed)


def classify_images(
    model: Callable[..., Any], images: Array, processor: Callable[..., Any] | None = None, batch_size: int = 64
) -> Tensor:
    """Computes the logits, (images, classes) float32 on the CPU, of an image classifier.

    Args:
        model: `PlaitForClassification`, an image classifier of transformers, or any callable; returns logits or an
            output with `.logits`.
        images: (images, channels, height, width) in -1..1.
        processor: the model's own, which gets 8-bit PIL images as `images=`; None: the model is called with the
            tensor of images itself.
        batch_size: images at a time.

    Raises as `read_images`, and ValueError for logits that are not (images, classes).
    """
    pixels = read_images(images)
    evaluated: Any = use_eval_mode(cast("Any", model)) if isinstance(model, torch.nn.Module) else nullcontext()
    with evaluated, torch.inference_mode():
        found = [_compute_logits(model, batch, processor) for batch in pixels.split(batch_size)]
    return torch.cat(found)


def compute_condition_similarities(
    model: Embedder,
    images: Array,
    conditions: Sequence[Any],
    processor: Callable[..., Any],
    *,
    side: str = "text",
    batch_size: int = 64,
) -> Tensor:
    """Computes the cosines, (images, conditions) float32 on the CPU, of images and conditions in a retrieval model.

    `measure_agreement` reads them as logits: how often an image is nearest to its own condition.

    Args:
        model: `PlaitForRetrieval` with an image tower.
        images: (images, channels, height, width) in -1..1.
        conditions: the distinct conditions: texts, or inputs of another side.
        processor: the model's own.
        side: of the conditions.
        batch_size: rows at a time.

    Raises as `read_images` and `encode_rows`.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress": False}
    seen = encode_rows(model, build_pil_images(images), processor, "image", **options)
    return seen.float() @ encode_rows(model, list(conditions), processor, side, **options).float().T


def _compute_logits(model: Any, images: Tensor, processor: Callable[..., Any] | None) -> Tensor:
    device = getattr(model, "device", "cpu")
    if processor is None:
        output = model(images.to(device))
    else:
        inputs = processor(images=build_pil_images(images), return_tensors="pt")
        output = model(**{name: value.to(device) for name, value in inputs.items()})
    logits = output if isinstance(output, Tensor) else output.logits
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(f"the classifier returned logits of shape {tuple(logits.shape)} for {len(images)} images")
    return logits.float().cpu()


def _select_classes(predictions: Array) -> np.ndarray:
    if predictions.ndim == 2:
        return read_features(predictions, "predictions").argmax(axis=1)
    return read_numbers(predictions, len(predictions), "predictions")


def _normalize(vectors: Array, name: str) -> np.ndarray:
    rows = read_features(vectors, name)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"{name} have a vector of zeros in row {int((lengths == 0).argmax())}: it has no cosine")
    return rows / lengths


def _compare(own: np.ndarray, shuffled: np.ndarray, groups: Array | None, resamples: int, seed: int) -> Agreement:
    mean = estimate_mean(own, groups, resamples, seed)
    if groups is None and np.isin(own, (0.0, 1.0)).all():
        mean = compute_wilson_interval(int(own.sum()), own.size)
    return Agreement(
        mean, estimate_mean(shuffled, groups, resamples, seed), estimate_mean(own - shuffled, groups, resamples, seed)
    )
