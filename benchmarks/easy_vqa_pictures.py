"""Pictures of easy-VQA's shapes from words that were never trained, judged by what they show.

    python benchmarks/easy_vqa_pictures.py RUN [RUN ...] --work work/judge [--left-out RUN ...] [--output FOLDER]

RUN is the folder of a trained `PlaitForImageGeneration` (one for each seed), or the word `real`: then real test images
stand in for generated ones, which shows what the judging itself loses. The 24 combinations of 3 shapes and 8 colours
are asked for by three wordings; `--left-out` names runs that were trained without red circles, blue rectangles, yellow
triangles and green rectangles, and asks for these alone. The labels come from easy-VQA's questions and answers; the
judge is a small convolutional classifier of shape and colour, trained on the real training images of the package.
Reported with 95 % intervals, over all runs together and for each: shape, colour and both right; exactly one connected
shape of the wanted colour and a real size; all at once; KID in the judge's features; near copies of training images;
the same of real images, of shuffled captions, and chance. Last line:

    plait easy-vqa pictures: runs=N images=N shape=0.xxx colour=0.xxx both=0.xxx one=0.xxx all=0.xxx kid=0.xxx copies=0.xxx left_out=0.xxx
"""  # noqa: E501

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from image_judge import (
    ImageJudge,
    add_arguments,
    as_tensor,
    generate,
    load_or_train,
    standardize,
    write_report,
)
from PIL import Image
from torch import Tensor

from plait.training.data.easy_vqa import COLOURS, SHAPES, TEST_CAPTIONS, derive_scenes
from plait.training.data.image_grid import draw_grid
from plait.training.metrics.bootstrap import Interval
from plait.training.metrics.images.agreement import measure_agreement
from plait.training.metrics.images.components import find_single_shapes, measure_components
from plait.training.metrics.images.copies import measure_diversity, measure_near_copies
from plait.training.metrics.images.distribution import estimate_kid
from plait.training.metrics.images.intervals import estimate_share
from plait.training.metrics.images.report import ImageMeasure, ImageReport

RGB = "000000 0000ff a52a2a 808080 00ff00 ff0000 008080 ffff00"  # of COLOURS
PALETTE = np.array([list(bytes.fromhex(colour)) for colour in RGB.split()]) / 127.5 - 1
LEFT_OUT = (("circle", "red"), ("rectangle", "blue"), ("triangle", "yellow"), ("rectangle", "green"))
CHANCES = {"shape": 1 / 3, "colour": 1 / 8, "both": 1 / 24, "all at once": None}
NOTHING = -1  # the class of an image that does not show exactly one shape


class RealImages(NamedTuple):
    """images: (images, 3, 64, 64); shape, colour: (images, classes) bool, the candidates that all answers leave."""

    images: Tensor
    shape: Tensor
    colour: Tensor

    @property
    def known(self) -> Tensor:
        """The images whose shape and colour the answers determine, (images,) bool."""
        return (self.shape.sum(dim=1) == 1) & (self.colour.sum(dim=1) == 1)


class Judged(NamedTuple):
    """What judge and components see, a row an image: shape and colour classes, exactly one shape, the combination shown
    (`NOTHING` without exactly one shape), features."""

    shape: np.ndarray
    colour: np.ndarray
    single: np.ndarray
    shown: np.ndarray
    features: Tensor


def read_split(split: str) -> RealImages:
    """All images of a split, with the shapes and colours that no question and answer excludes."""
    import easy_vqa as package

    scenes = derive_scenes(*getattr(package, f"get_{split}_questions")())
    paths = getattr(package, f"get_{split}_image_paths")()
    order = sorted(scenes)
    shapes = [[name in scenes[image].shapes for name in SHAPES] for image in order]
    colours = [[name in scenes[image].colours for name in COLOURS] for image in order]
    pixels = np.stack([np.asarray(Image.open(paths[image]).convert("RGB")) for image in order])
    return RealImages(as_tensor(pixels), torch.tensor(shapes), torch.tensor(colours))


class Bench:
    """The judge and the real images that generated ones are compared with."""

    def __init__(self, work: Path) -> None:
        self.train, self.test = read_split("train"), read_split("test")
        self.judge: ImageJudge = load_or_train(
            work / "easy_vqa_judge.pt", self.train.images, [self.train.shape, self.train.colour]
        )
        shape, colour = self.judge.judge(self.test.images).classes.T
        known = self.test.known.numpy()
        truth = [np.where(known, mask.int().argmax(dim=1).numpy(), 0) for mask in (self.test.shape, self.test.colour)]
        right = (shape == truth[0]) & (colour == truth[1])
        self.accuracy = estimate_share(right[known])
        self.known_images = self.test.images[self.test.known]
        self.known_wanted = np.stack(truth, axis=1)[known]
        real = measure_components(self.test.images, PALETTE)
        self.areas = real.areas
        self.train_features = self.judge.judge(self.train.images).features
        self.test_features = self.judge.judge(self.test.images).features

    def look(self, images: Tensor, wanted: np.ndarray) -> Judged:
        """What the images show; wanted: (images, 2), shape and colour."""
        answers = self.judge.judge(images)
        shape, colour = answers.classes.T
        single = find_single_shapes(measure_components(images, PALETTE, wanted[:, 1]), self.areas)
        seen = find_single_shapes(measure_components(images, PALETTE, colour), self.areas)
        shown = np.where(seen, combine(answers.classes), NOTHING)
        return Judged(shape, colour, single, shown, answers.features)

    def measure(self, images: Tensor, wanted: np.ndarray) -> ImageReport:
        """The report of images of the wanted shapes and colours, (images, 2), beside real ones of the same; KID only if
        all combinations are wanted."""
        number, real_number = combine(wanted), combine(self.known_wanted)
        rows = np.isin(real_number, number)
        real_images, real_wanted = self.known_images[torch.from_numpy(rows)], self.known_wanted[rows]
        found, real = self.look(images, wanted), self.look(real_images, real_wanted)
        report = ImageReport(len(images))
        for name, chance in CHANCES.items():
            own, truth = select_classes(found, wanted, name), select_classes(real, real_wanted, name)
            agreement = measure_agreement(*own)
            report.measures[name] = ImageMeasure.from_agreement(agreement, measure_agreement(*truth).own, chance)
        report.measures["exactly one shape"] = ImageMeasure(estimate_share(found.single), estimate_share(real.single))
        if len(np.unique(number)) == len(SHAPES) * len(COLOURS):
            report.measures["KID"] = self.measure_kid(found.features)
        copies = measure_near_copies(images, self.test.images, self.train.images)
        report.measures["near copies"] = ImageMeasure(copies.share, chance=0.01)
        report.measures["distance to training"] = ImageMeasure(copies.distance, copies.real_distance)
        if len(images) > len(np.unique(number)):
            diversity = measure_diversity(images, number), measure_diversity(real_images, real_number[rows])
            report.measures["diversity"] = ImageMeasure(*diversity)
        return report

    def measure_kid(self, features: Tensor) -> ImageMeasure:
        """KID to the test images, of the generated and of as many training images."""
        test = standardize(self.test_features, self.train_features)
        rows = torch.randperm(len(self.train_features), generator=torch.Generator().manual_seed(0))[: len(features)]
        sets = (features, self.train_features[rows])
        return ImageMeasure(*(estimate_kid(standardize(part, self.train_features), test, 200) for part in sets))


def combine(wanted: np.ndarray) -> np.ndarray:
    """The number of the combination, (images,), of shape and colour, (images, 2)."""
    return wanted[:, 0] * len(COLOURS) + wanted[:, 1]


def select_classes(found: Judged, wanted: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The classes seen and wanted of one measure."""
    both = combine(wanted)
    seen = {
        "shape": (found.shape, wanted[:, 0]),
        "colour": (found.colour, wanted[:, 1]),
        "both": (combine(np.stack([found.shape, found.colour], axis=1)), both),
        "all at once": (found.shown, both),
    }
    return seen[name]


def list_all(each: int) -> np.ndarray:
    """Every combination, `each` times in turn: (images, 2)."""
    grid = [(shape, colour) for shape in range(len(SHAPES)) for colour in range(len(COLOURS))]
    return np.array(grid * each)


def list_left_out(each: int) -> np.ndarray:
    return np.array([(SHAPES.index(shape), COLOURS.index(colour)) for shape, colour in LEFT_OUT] * each)


def write_captions(wanted: np.ndarray) -> list[str]:
    """A caption for each row; the wordings take turns within a combination."""
    counts: dict[tuple[int, int], int] = {}
    captions = []
    for shape, colour in map(tuple, wanted.tolist()):
        number = counts[shape, colour] = counts.get((shape, colour), -1) + 1
        captions.append(TEST_CAPTIONS[number % len(TEST_CAPTIONS)].format(shape=SHAPES[shape], colour=COLOURS[colour]))
    return captions


def make_images(run: str, wanted: np.ndarray, bench: Bench, arguments: argparse.Namespace) -> Tensor:
    """Images of a run's model for the captions of the wanted combinations, or real test images of them."""
    if run == "real":
        places = [np.flatnonzero((bench.known_wanted == row).all(axis=1)) for row in wanted]
        return bench.known_images[[place[number % len(place)] for number, place in enumerate(places)]]
    captions = write_captions(wanted)

    def encode(processor: Any, rows: range) -> Any:
        texts = captions[rows.start : rows.stop]
        return dict(processor(text=texts, return_tensors="pt")) if texts else None

    return generate(run, encode, arguments)


def measure_runs(runs: list[str], wanted: np.ndarray, bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """The reports of each run and of all together, and the images of the first."""
    reports, made = {}, []
    for run in runs:
        started = time.perf_counter()
        made.append(make_images(run, wanted, bench, arguments))
        reports[run] = bench.measure(made[-1], wanted)
        seconds = time.perf_counter() - started
        print(f"{run}: {seconds:.0f} s, {describe(reports[run])}", flush=True)
    together = bench.measure(torch.cat(made), np.concatenate([wanted] * len(runs)))
    return {"runs": reports, "together": together, "images": made[0]}


def draw(images: Tensor, wanted: np.ndarray, rows: int = 4) -> Image.Image:
    """The first images of each combination, eight colours in a row."""
    columns = len(COLOURS) if len(set(map(tuple, wanted.tolist()))) > len(LEFT_OUT) else len(LEFT_OUT)
    count = min(len(images), columns * rows * len(SHAPES))
    labels = [f"{COLOURS[colour]} {SHAPES[shape]}" for shape, colour in wanted[:count]]
    return draw_grid(images[:count], columns, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help='run folders, one a seed, or "real"')
    parser.add_argument("--left-out", nargs="+", default=[], help="runs that were trained without four combinations")
    parser.add_argument("--images", type=int, default=20, help="of each combination and run")
    parser.add_argument("--left-out-images", type=int, default=40, help="of each combination left out, over the runs")
    add_arguments(parser)
    arguments = parser.parse_args()
    bench, folder = Bench(arguments.work), arguments.output or arguments.work
    print(f"judge: {bench.accuracy} of {len(bench.known_images)} real test images with known labels", flush=True)
    wanted = list_all(arguments.images)
    found = measure_runs(arguments.runs, wanted, bench, arguments)
    content = {"judge": bench.accuracy.as_dict(), "together": found["together"].to_dict()}
    content["runs"] = {run: report.to_dict() for run, report in found["runs"].items()}
    write_report(folder, "easy_vqa_pictures", content, found["together"].format_table(), draw(found["images"], wanted))
    left_out: Interval | None = None
    if arguments.left_out:
        wanted = list_left_out(-(-arguments.left_out_images // len(arguments.left_out)))
        other = measure_runs(arguments.left_out, wanted, bench, arguments)
        left_out = other["together"].measures["both"].generated
        content = {"together": other["together"].to_dict()}
        content["runs"] = {run: report.to_dict() for run, report in other["runs"].items()}
        grid = draw(other["images"], wanted)
        write_report(folder, "easy_vqa_left_out", content, other["together"].format_table(), grid)
    end = "" if left_out is None else f" left_out={left_out.value:.3f}"
    print(f"plait easy-vqa pictures: runs={len(arguments.runs)} {describe(found['together'])}{end}")


def describe(report: ImageReport) -> str:
    """The values of a report in one line."""
    names = {"shape": "shape", "colour": "colour", "both": "both", "exactly one shape": "one", "all at once": "all"}
    names |= {"KID": "kid", "near copies": "copies"}
    known = {short: report.measures[name].generated.value for name, short in names.items() if name in report.measures}
    return f"images={report.count} {' '.join(f'{name}={value:.3f}' for name, value in known.items())}"


if __name__ == "__main__":
    main()
