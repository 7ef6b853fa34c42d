"""A report of generated images: every measure with its interval, with real images and shuffled conditions compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..bootstrap import Interval
from .agreement import Agreement, measure_agreement
from .arrays import Array, read_images
from .copies import measure_diversity, measure_near_copies
from .distribution import IMAGES_PER_FEATURE, estimate_fid, estimate_kid

COLUMNS = ("generated", "real", "shuffled", "difference")


@dataclass(frozen=True)
class ImageMeasure:
    """One measure of generated images.

    Attributes:
        generated: of the generated images.
        real: of real images.
        shuffled: of the generated images with shuffled conditions.
        difference: generated minus shuffled, paired over the rows.
        chance: the value of a guess.
    """

    generated: Interval
    real: Interval | None = None
    shuffled: Interval | None = None
    difference: Interval | None = None
    chance: float | None = None

    @classmethod
    def from_agreement(
        cls, agreement: Agreement, real: Interval | None = None, chance: float | None = None
    ) -> "ImageMeasure":
        """Builds the measure of an agreement with the condition."""
        return cls(agreement.own, real, agreement.shuffled, agreement.difference, chance)

    def to_dict(self) -> dict[str, Any]:
        """Returns `{"generated": {value, low, high}, ...}` without what is not known."""
        known = {name: interval.as_dict() for name in COLUMNS if (interval := getattr(self, name)) is not None}
        return known if self.chance is None else {**known, "chance": self.chance}


@dataclass
class ImageReport:
    """All measures of `count` generated images, by name."""

    count: int
    measures: dict[str, ImageMeasure] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data for a JSON file."""
        return {"images": self.count} | {name: measure.to_dict() for name, measure in self.measures.items()}

    def format_table(self) -> str:
        """Formats the report as a Markdown table: one line for each measure, values with 95 % intervals."""
        columns = [name for name in COLUMNS if any(getattr(m, name) is not None for m in self.measures.values())]
        lines = [f"| {self.count} images | {' | '.join(columns)} | chance |", "| --- " * (len(columns) + 2) + "|"]
        for name, measure in self.measures.items():
            cells = [_format_interval(getattr(measure, column)) for column in columns]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {'' if measure.chance is None else f'{measure.chance:.4f}'} |"
            )
        return "\n".join(lines)


def measure_images(
    images: Array,
    test: Array,
    train: Array,
    features: Callable[[Array], np.ndarray] | None = None,
    *,
    predictions: Array | None = None,
    wanted: Array | None = None,
    prompts: Array | None = None,
    mirrored: bool = True,
    seed: int = 0,
) -> ImageReport:
    """Measures generated images with all that is known about them.

    Args:
        images: generated, (images, channels, height, width) in -1..1.
        test: real images that were not trained on, of the same size (at least 100).
        train: the images that were trained on.
        features: images to features, such as `ImageFeatures`: adds KID, FID (if there are enough images for it) and the
            diversity in features.
        predictions, wanted: what a classifier sees and what was asked for, as in `measure_agreement`.
        prompts: (images,) the number of each image's prompt: adds the diversity within a prompt.
        mirrored: whether a mirrored training image is a copy too.
        seed: of all resamples.

    Raises as the measures, and ValueError for predictions without wanted classes.
    """
    if (predictions is None) != (wanted is None):
        raise ValueError("predictions and wanted go together: pass both, or neither")
    report = ImageReport(len(read_images(images)))
    copies = measure_near_copies(images, test, train, mirrored=mirrored)
    report.measures["near copies"] = ImageMeasure(copies.share, chance=None)
    report.measures["distance to training"] = ImageMeasure(copies.distance, copies.real_distance)
    if features is not None:
        report.measures |= _measure_features(images, test, train, features, prompts, seed)
    if prompts is not None:
        report.measures["diversity in pixels"] = ImageMeasure(measure_diversity(images, prompts, seed=seed))
    if predictions is not None and wanted is not None:
        agreement = measure_agreement(predictions, wanted, seed=seed)
        report.measures["agreement"] = ImageMeasure.from_agreement(agreement)
    return report


def _measure_features(
    images: Array, test: Array, train: Array, features: Callable[[Array], Any], prompts: Array | None, seed: int
) -> Mapping[str, ImageMeasure]:
    """The real images are as many random training images, so that both are compared alike with the test images."""
    drawn = np.random.default_rng(seed).permutation(len(train))[: len(images)]
    own, known, real = features(images), features(test), features(train[drawn])
    found = {"KID": ImageMeasure(estimate_kid(own, known, seed=seed), estimate_kid(real, known, seed=seed))}
    if min(len(own), len(known), len(real)) >= IMAGES_PER_FEATURE * own.shape[1]:
        found["FID"] = ImageMeasure(estimate_fid(own, known, seed=seed), estimate_fid(real, known, seed=seed))
    if prompts is not None:
        found["diversity in features"] = ImageMeasure(measure_diversity(own, prompts, seed=seed))
    return found


def _format_interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
