"""Measures of generated images, with intervals: distribution, agreement with the condition, components, near copies.

    features = ImageFeatures.from_pretrained("facebook/dinov2-small")
    report = measure_images(generated, test, train, features, predictions=logits, wanted=classes)
    print(report.format_table())

May import: training/metrics, training/data and below.
"""

from .agreement import (
    Agreement,
    classify_images,
    compute_condition_similarities,
    measure_agreement,
    measure_similarity,
)
from .components import ImageComponents, find_single_shapes, measure_components
from .copies import NearCopies, compute_nearest_distances, measure_diversity, measure_near_copies
from .distribution import compute_fid, compute_kid, estimate_fid, estimate_kid
from .features import ImageFeatures
from .intervals import compute_wilson_interval, estimate_mean, estimate_share
from .report import ImageMeasure, ImageReport, measure_images

__all__ = [
    "Agreement",
    "ImageComponents",
    "ImageFeatures",
    "ImageMeasure",
    "ImageReport",
    "NearCopies",
    "classify_images",
    "compute_condition_similarities",
    "compute_fid",
    "compute_kid",
    "compute_nearest_distances",
    "compute_wilson_interval",
    "estimate_fid",
    "estimate_kid",
    "estimate_mean",
    "estimate_share",
    "find_single_shapes",
    "measure_agreement",
    "measure_components",
    "measure_diversity",
    "measure_images",
    "measure_near_copies",
    "measure_similarity",
]
