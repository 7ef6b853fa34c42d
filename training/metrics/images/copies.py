"""Near copies of training images among generated ones (memorisation), and diversity within a prompt."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..bootstrap import Interval
from .arrays import Array, read_features, read_images, read_numbers
from .intervals import compute_wilson_interval, draw_weights, estimate_mean

DISTANCES_PER_BLOCK = 2**24  # 64 MiB in float32
PERCENTILE = 1.0  # of real test images' distances: as many of them count as copies
SAME_IMAGE = 1e-6  # a distance below is that of equal images, rounded


class NearCopies(NamedTuple):
    """The share of near copies of training images, 0..1, with its Wilson interval, and the distances to the nearest
    training image of the generated and of the real test images, means with bootstrap intervals. threshold: the
    distance below which an image counts as a copy."""

    share: Interval
    distance: Interval
    real_distance: Interval
    threshold: float


def measure_near_copies(
    images: Array, test: Array, train: Array, pool: int = 2, mirrored: bool = True, percentile: float = PERCENTILE
) -> NearCopies:
    """Measures how many images lie nearer to a training image than (nearly) all real test images do.

    Args:
        images: generated, (images, channels, height, width) in -1..1.
        test: real images that were not trained on, of the same size: at least 100 / percentile of them.
        train: the images that were trained on.
        pool, mirrored: as in `compute_nearest_distances`.
        percentile: of the test images' distances, the threshold of a copy.

    Raises as `compute_nearest_distances`, and ValueError for too few test images, or so many that are training images
    that the threshold is 0.
    """
    real = compute_nearest_distances(test, train, pool, mirrored)
    if real.size < 100 / percentile:
        raise ValueError(f"{real.size} test images: percentile {percentile} needs at least {100 / percentile:.0f}")
    found = compute_nearest_distances(images, train, pool, mirrored)
    threshold = float(np.percentile(real, percentile))
    if threshold < SAME_IMAGE:
        raise ValueError(
            f"{(real < SAME_IMAGE).sum()} of {real.size} test images are training images: leave them out, or the "
            "threshold of a near copy is 0"
        )
    share = compute_wilson_interval(int((found < threshold).sum()), found.size)
    return NearCopies(share, estimate_mean(found), estimate_mean(real), threshold)


def compute_nearest_distances(images: Array, train: Array, pool: int = 2, mirrored: bool = True) -> np.ndarray:
    """Computes the distance of each image to its nearest training image, (images,) float64.

    The distance is the root mean square over average-pooled pixels, in the units of -1..1 (0 for a copy).

    Args:
        images, train: (images, channels, height, width) in -1..1, of one size.
        pool: side in pixels of the squares that are averaged; divides height and width.
        mirrored: compare also with the training images mirrored left to right.

    Raises:
        TypeError, ValueError: as `read_images`; images of another size, or sides that `pool` does not divide.
    """
    rows, known = _pool_pixels(images, "images", pool), _pool_pixels(train, "training images", pool)
    if rows.shape[1:] != known.shape[1:]:
        raise ValueError(f"images of {tuple(rows.shape[1:])} and training images of {tuple(known.shape[1:])} after "
                         "pooling: resize them to one size")  # fmt: skip
    vectors = torch.cat([known, known.flip(3)] if mirrored else [known]).flatten(1)
    size = max(1, DISTANCES_PER_BLOCK // len(vectors))
    return np.concatenate([_find_nearest(block, vectors) for block in rows.flatten(1).split(size)])


def measure_diversity(features: Array, prompts: Array, resamples: int = 2000, seed: int = 0) -> Interval:
    """Measures how much the images of a prompt differ: the mean distance of two of them, averaged over the prompts.

    The distance is the root mean square difference of the features, |x - y| / sqrt(width): 0 if all images of a prompt
    are equal. The 95 % interval is over prompts, or with a single prompt over its images.

    Args:
        features: (images, width), or the images themselves, (images, channels, height, width) in -1..1.
        prompts: (images,) the number of each image's prompt; prompts with a single image do not count.
        resamples: bootstrap resamples.
        seed: of the random generator.

    Raises:
        TypeError, ValueError: as `read_features` and `read_numbers`; no prompt with two images.
    """
    rows = read_features(read_images(features).flatten(1) if features.ndim == 4 else features)
    numbers = read_numbers(prompts, len(rows), "prompts")
    values, counts = np.unique(numbers, return_counts=True)
    groups = [rows[numbers == value] for value in values[counts > 1]]
    if not groups:
        raise ValueError(f"each of the {len(values)} prompts has one image: diversity needs two of a prompt")
    if len(groups) == 1:
        return _resample_pairs(_compute_pair_distances(groups[0]), resamples, seed)
    means = [_compute_pair_distances(group).sum() / (len(group) * (len(group) - 1)) for group in groups]
    return estimate_mean(np.array(means), None, resamples, seed)


def _pool_pixels(images: Array, name: str, pool: int) -> Tensor:
    tensor = read_images(images, name)
    height, width = tensor.shape[2:]
    if pool < 1 or height % pool or width % pool:
        raise ValueError(f"pool is {pool}: it does not divide the {height} x {width} pixels of the {name}")
    return F.avg_pool2d(tensor, pool)


def _find_nearest(rows: Tensor, vectors: Tensor) -> np.ndarray:
    """The matrix product finds the nearest; its distance is then computed without the product's cancellation."""
    nearest = torch.cdist(rows, vectors, compute_mode="use_mm_for_euclid_dist").argmin(dim=1)
    return (rows.double() - vectors[nearest].double()).square().mean(dim=1).sqrt().numpy()


def _compute_pair_distances(rows: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(rows)
    distances = torch.cdist(tensor, tensor, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.numpy() / np.sqrt(rows.shape[1])


def _resample_pairs(distances: np.ndarray, resamples: int, seed: int) -> Interval:
    """Resamples images; two draws of one image are no pair, and a resample of one image alone has no value."""
    weights = draw_weights(len(distances), resamples, seed)
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    sums = ((weights @ distances) * weights).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
    low, high = np.quantile(sums, [0.025, 0.975])
    return Interval(float(distances.sum() / (len(distances) * (len(distances) - 1))), float(low), float(high))
