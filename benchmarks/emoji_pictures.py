"""Emoji drawn from names that were never trained: does a picture belong to the group of its name?

    python benchmarks/emoji_pictures.py DATA RUN [RUN ...] --work work/judge [--output FOLDER]

DATA holds train.parquet and test.parquet with the columns image, caption (the emoji's name), group and hexcode (the
same concept drawn by several vendors); no concept is in both. RUN is the folder of a `PlaitForImageGeneration` that was
trained on the names and images of train.parquet, or the word `real`: then the real test images stand in for generated
ones. A small convolutional classifier of the groups, trained on the real training images, says which group an image
shows; it agrees with the asked group more often than with those of shuffled names, or the model does not read them.
Intervals are 95 % and over the concepts. Last line:

    plait emoji pictures: runs=N images=N agreement=0.xxx shuffled=0.xxx difference=0.xxx low=0.xxx high=0.xxx real=0.xxx majority=0.xxx
"""  # noqa: E501

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from image_judge import add_arguments, as_candidates, as_tensor, generate, load_or_train, standardize, write_report
from torch import Tensor

from plait.processing.images import read_image
from plait.training.data.image_grid import draw_grid
from plait.training.metrics.images.agreement import measure_agreement
from plait.training.metrics.images.copies import (
    SAME_IMAGE,
    compute_nearest_distances,
    measure_diversity,
    measure_near_copies,
)
from plait.training.metrics.images.distribution import estimate_kid
from plait.training.metrics.images.report import ImageMeasure, ImageReport


class Emoji(NamedTuple):
    """images: (rows, 3, side, side); captions; groups: (rows,) their numbers; concepts: (rows,)."""

    images: Tensor
    captions: list[str]
    groups: np.ndarray
    concepts: np.ndarray

    def select(self, rows: np.ndarray) -> "Emoji":
        """The rows of these numbers."""
        captions = [self.captions[row] for row in rows.tolist()]
        return Emoji(self.images[torch.from_numpy(rows)], captions, self.groups[rows], self.concepts[rows])


def read_split(file: Path, names: list[str], size: int) -> Emoji:
    """All rows of a split; new names of groups are added to `names`."""
    from datasets import Dataset, Image

    table: Any = Dataset.from_parquet(str(file)).cast_column("image", Image(decode=False))
    names += sorted(set(table["group"]) - set(names))
    images = [read_image(value).resize((size, size)) for value in table["image"]]
    pixels = as_tensor(np.stack([np.asarray(image) for image in images]))
    concepts = np.unique(table["hexcode"], return_inverse=True)[1]
    return Emoji(pixels, list(table["caption"]), np.array([names.index(name) for name in table["group"]]), concepts)


class Bench:
    """The judge of groups, and the real images."""

    def __init__(self, data: Path, work: Path, size: int, epochs: int) -> None:
        self.names: list[str] = []
        self.train, self.test = (read_split(data / f"{name}.parquet", self.names, size) for name in ("train", "test"))
        candidates = as_candidates(self.train.groups, len(self.names))
        file = work / f"emoji_judge_{size}.pt"
        self.judge = load_or_train(file, self.train.images, [candidates], epochs=epochs, mirror=True)
        answers = self.judge.judge(self.test.images)
        self.real = measure_agreement(answers.logits[0], self.test.groups, self.test.concepts)
        self.majority = float((self.test.groups == np.bincount(self.train.groups).argmax()).mean())
        self.train_features = self.judge.judge(self.train.images).features
        self.test_features = standardize(answers.features, self.train_features)
        new = compute_nearest_distances(self.test.images, self.train.images) >= SAME_IMAGE
        self.new_images = self.test.images[torch.from_numpy(new)]
        self.asked = self.test.select(np.unique(self.test.concepts, return_index=True)[1])

    def measure(self, images: Tensor, asked: Emoji) -> ImageReport:
        """The report of images of the asked names."""
        answers, report = self.judge.judge(images), ImageReport(len(images))
        agreement = measure_agreement(answers.logits[0], asked.groups, asked.concepts)
        report.measures["group"] = ImageMeasure.from_agreement(agreement, self.real.own, self.majority)
        report.measures["KID"] = self.measure_kid(answers.features)
        copies = measure_near_copies(images, self.new_images, self.train.images)
        report.measures["near copies"] = ImageMeasure(copies.share, chance=0.01)
        report.measures["distance to training"] = ImageMeasure(copies.distance, copies.real_distance)
        if len(images) > len(np.unique(asked.concepts)):
            real = measure_diversity(self.test.images, self.test.concepts)
            report.measures["diversity"] = ImageMeasure(measure_diversity(images, asked.concepts), real)
        return report

    def measure_kid(self, features: Tensor) -> ImageMeasure:
        """KID to the test images, of the generated and of as many training images."""
        rows = torch.randperm(len(self.train_features), generator=torch.Generator().manual_seed(0))[: len(features)]
        sets = (standardize(part, self.train_features) for part in (features, self.train_features[rows]))
        return ImageMeasure(*(estimate_kid(part, self.test_features, 200) for part in sets))


def make_images(run: str, asked: Emoji, bench: Bench, arguments: argparse.Namespace) -> Tensor:
    """Images of a run's model for the asked names, or real test images of the same groups as those asked."""
    if run == "real":
        return asked.images

    def encode(processor: Any, rows: range) -> Any:
        texts = asked.captions[rows.start : rows.stop]
        return dict(processor(text=texts, return_tensors="pt")) if texts else None

    return generate(run, encode, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", nargs="+", help='run folders, one a seed, or "real"')
    parser.add_argument("--images", type=int, default=2, help="of each name and run")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--judge-epochs", type=int, default=20)
    parser.add_argument("--grid", type=int, default=48, help="names in the grid")
    add_arguments(parser)
    arguments = parser.parse_args()
    bench = Bench(arguments.data, arguments.work, arguments.image_size, arguments.judge_epochs)
    print(f"judge: {bench.real.own} of the test images' groups, the largest group {bench.majority:.3f}", flush=True)
    rows = np.tile(np.arange(len(bench.asked.captions)), arguments.images)
    asked = bench.test if arguments.runs == ["real"] else bench.asked.select(rows)
    made = {run: make_images(run, asked, bench, arguments) for run in arguments.runs}
    reports = {run: bench.measure(images, asked) for run, images in made.items()}
    every = asked.select(np.tile(np.arange(len(asked.captions)), len(made)))
    together = bench.measure(torch.cat(list(made.values())), every)
    content = {"together": together.to_dict(), "runs": {run: report.to_dict() for run, report in reports.items()}}
    first = next(iter(made.values()))[: arguments.grid]
    grid = draw_grid(first, 8, asked.captions[: len(first)])
    write_report(arguments.output or arguments.work, "emoji_pictures", content, together.format_table(), grid)
    print(summarize(together.measures["group"], together.count, len(made)))


def summarize(found: ImageMeasure, count: int, runs: int) -> str:
    """The last line."""
    assert found.shuffled and found.difference and found.real
    low, high = found.difference.low, found.difference.high
    scores = f"agreement={found.generated.value:.3f} shuffled={found.shuffled.value:.3f}"
    difference = f"difference={found.difference.value:.3f} low={low:.3f} high={high:.3f}"
    others = f"real={found.real.value:.3f} majority={found.chance:.3f}"
    return f"plait emoji pictures: runs={runs} images={count} {scores} {difference} {others}"


if __name__ == "__main__":
    main()
