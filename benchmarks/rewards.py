"""Does training by rewards beat more of the old training? `python benchmarks/rewards.py --seconds 60 --precision 1`

The task: name the objects of an image, squares of ten colours in random cells of a grid, with noise. As annotators do,
each of the five references of an image names some of its objects alone, each with probability 0.6, in an order of its
own. The metric is the F1, without order, of the named objects and of those that its references name together, nearly
all; cross-entropy learns to write one of the references. Both trainings see the same references, and nothing else: the
reward compares with all five at once, as CIDEr does. It is the F1 and, with --precision, that weight times the share of
the named objects that the references name: by the F1 alone a model names objects that it is not sure of. Not rewarded
is the share of images whose objects are all named, and none besides.

For each seed: a captioner trained with cross-entropy for 1,800 steps, its rate falling to 0, or until the metric on
validation rows has not risen for two evaluations, one every 300 steps, and of its checkpoints the best by that metric;
from there, for the same CPU seconds each, more cross-entropy at the best of three learning rates, and the reward at the
better of two, chosen by the metric on the validation rows. Prints both, and the paired differences over the test rows
of all seeds with their 95 % intervals. Last line:

    plait rewards: seeds=3 start=0.xxx more=0.xxx reward=0.xxx difference=0.xxx low=0.xxx high=0.xxx
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from continued_training import CONTINUED, train_at_best_rate
from PIL import Image

from plait.training.metrics.bootstrap import paired_bootstrap
from plait.training.metrics.generation import generate_texts
from plait.training.runs.assembly import build_arguments
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, build_run

COLOURS = {
    "red": (230, 30, 30),
    "green": (30, 180, 40),
    "blue": (40, 60, 230),
    "yellow": (240, 230, 40),
    "pink": (250, 130, 190),
    "brown": (120, 70, 20),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "orange": (250, 140, 20),
    "cyan": (40, 220, 230),
}
SIDE, CELL, NOISE = 12, 4, 20
CORE: dict[str, Any] = {"hidden_size": 48, "num_attention_heads": 4}
REFERENCES, NAMED = 5, 0.6  # of an image; the chance of each of its objects to be named by one of them
REWARD = {
    "metrics": {f"{__name__}:score_named": 1.0},
    "held_out": "token_f1",
    "samples": 5,
    "baseline": "leave_one_out",
    "cross_entropy": 0.0,
}
RATES = (1e-3, 3e-4, 1e-4)
TRAINING: dict[str, Any] = {
    "use_cpu": True,
    "disable_tqdm": True,
    "warmup_steps": 10,
    "logging_steps": 50,
    "per_device_train_batch_size": 32,
    "image_cache": 0.2,
    "per_device_eval_batch_size": 100,
}


class Split(NamedTuple):
    """The images of the task, the names of the objects of each, and those that its references name together."""

    images: list[str]
    objects: list[list[str]]
    named: list[list[str]]


class Arm(NamedTuple):
    """A trained model on the test rows: the F1 of each, its precision, and whether its objects are all named and none
    besides."""

    f1: np.ndarray
    precision: np.ndarray
    exact: np.ndarray


def join_references(references: Sequence[str]) -> Counter[str]:
    """The objects that several references name together: each as often as in the one that names it most often."""
    joined: Counter[str] = Counter()
    for reference in references:
        joined |= Counter(reference.split())
    return joined


def measure_f1(own: Counter[str], wanted: Counter[str]) -> float:
    """The F1 of two bags of words."""
    return 2 * (own & wanted).total() / max(own.total() + wanted.total(), 1)


def score_named(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The reward: the F1 of a text and of what the references of its row name together."""
    wanted = [join_references(row["references"]) for row in rows]
    return [measure_f1(Counter(text.split()), each) for text, each in zip(texts, wanted, strict=True)]


def score_precision(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The share of the words of each text that the references of its row name together; 0 of none."""
    own = [Counter(text.split()) for text in texts]
    wanted = [join_references(row["references"]) for row in rows]
    return [(mine & each).total() / max(mine.total(), 1) for mine, each in zip(own, wanted, strict=True)]


def write_reference(words: list[str], generator: random.Random) -> str:
    """Names some of the objects, at least one, in any order."""
    named = [word for word in words if generator.random() < NAMED] or [generator.choice(words)]
    return " ".join(generator.sample(named, len(named)))


def make_split(folder: Path, name: str, rows: int, seed: int) -> Split:
    """Images of two to five objects in different cells of a grid, and in training as many of one object. In training an
    image has all its references; else one text of what they name together, by which token_f1 is the metric."""
    generator = random.Random(f"{name} {seed}")
    chance = np.random.default_rng([seed, len(name)])
    made: list[dict[str, Any]] = []
    objects: list[list[str]] = []
    named: list[list[str]] = []
    for number in range(rows):
        canvas = np.zeros((SIDE, SIDE, 3))
        single = name == "train" and number % 2  # by which a model learns the colours sooner
        cells = generator.sample(range(9), 1 if single else generator.randint(2, 5))
        words = generator.choices(list(COLOURS), k=len(cells))
        for cell, word in zip(cells, words, strict=True):
            top, left = (CELL * place for place in divmod(cell, 3))
            canvas[top : top + CELL, left : left + CELL] = COLOURS[word]
        canvas = (canvas + chance.normal(0, NOISE, canvas.shape)).clip(0, 255)
        path = folder / f"{name}-{number}.png"
        Image.fromarray(canvas.astype(np.uint8)).save(path)
        references = [write_reference(words, generator) for _ in range(REFERENCES)]
        joined = list(join_references(references).elements())
        made.append({"image": str(path), "target": references if name == "train" else [" ".join(joined)]})
        objects.append(words)
        named.append(joined)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return Split([row["image"] for row in made], objects, named)


def make_splits(folder: Path, seed: int) -> dict[str, Split]:
    """The rows of each split."""
    rows = {"train": 2000, "validation": 200, "test": 500}
    return {name: make_split(folder, name, count, seed) for name, count in rows.items()}


def score(texts: Sequence[str], split: Split) -> Arm:
    """Scores named objects."""
    f1, precision, exact = [], [], []
    for text, objects, named in zip(texts, split.objects, split.named, strict=True):
        own, there = Counter(text.split()), Counter(objects)
        f1.append(measure_f1(own, Counter(named)))
        precision.append((own & there).total() / max(own.total(), 1))
        exact.append(float(own == there))
    return Arm(np.array(f1), np.array(precision), np.array(exact))


class Bench:
    """The data of a seed, and the trainings on it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.splits = make_splits(folder, seed)

    def build_run(self, name: str, model: dict[str, Any], training: dict[str, Any], **keys: Any) -> TrainingRun:
        """Builds a training run; keys: further ones of the recipe."""
        recipe = build_recipe(
            {
                "task": "generation",
                "model": model,
                "data": {"source": {part: str(self.folder / f"{part}.jsonl") for part in ("train", "validation")}},
                "generation": {"max_new_tokens": 12, "do_sample": False},
                "metrics": ["token_f1"],
                "seed": self.seed,
                "training": {**TRAINING, **training},
                **keys,
            }
        )
        return build_run(recipe, self.folder / name, build_arguments(recipe, self.folder / name))

    def train_start(self) -> Path:
        """Trains with cross-entropy and keeps the best checkpoint by the F1 on the validation rows."""
        image = {"config": {**CORE, "num_hidden_layers": 1, "image_size": SIDE, "patch_size": CELL}}
        decoder = {"config": {**CORE, "num_hidden_layers": 2, "max_position_embeddings": 32}}
        run = self.build_run(
            "start",
            {"image": image, "decoder": decoder},
            {
                "learning_rate": 2e-3,
                "lr_scheduler_type": "linear",
                "max_steps": 1800,
                "early_stopping_patience": 2,
                "eval_strategy": "steps",
                "eval_steps": 300,
                "save_strategy": "steps",
                "save_steps": 300,
                "save_total_limit": 1,
                "load_best_model_at_end": True,
                "metric_for_best_model": "token_f1",
            },
            tokenizer={"train": {"vocab_size": 400, "min_frequency": 1}},
        )
        run.trainer.train()
        run.trainer.save_model(str(self.folder / "best"))
        print(f"seed {self.seed} start: {run.trainer.state.global_step} steps, best F1 {run.trainer.state.best_metric}")
        return self.folder / "best"

    def continue_run(self, start: Path, name: str, rate: float, **keys: Any) -> TrainingRun:
        """Builds a run that goes on from the start."""
        training = {**CONTINUED, "learning_rate": rate}
        return self.build_run(f"{name}-{rate}", {"from_pretrained": str(start)}, training, **keys)

    def train_arm(self, start: Path, name: str, seconds: float, rates: Sequence[float], **keys: Any) -> tuple[Arm, str]:
        """Trains on from the start for CPU seconds at each rate; returns the best on the test rows, and a line about
        all of them."""
        best, shown = train_at_best_rate(
            lambda rate: self.continue_run(start, name, rate, **keys),
            rates,
            seconds,
            lambda run: float(self.write(run, "validation").f1.mean()),
        )
        return self.write(best.run, "test"), shown

    def write(self, run: TrainingRun, part: str) -> Arm:
        """Generates greedily for a split, and scores it."""
        split, texts, model = self.splits[part], [], run.model.eval()
        for first in range(0, len(split.images), 100):
            images = [Image.open(path) for path in split.images[first : first + 100]]
            texts += generate_texts(model, run.processor(images=images, return_tensors="pt"), run.processor)
        return score(texts, split)


def run_seed(seed: int, seconds: float, precision: float) -> dict[str, Arm]:
    """The start and the two arms of a seed, on the test rows."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), seed)
        start = bench.train_start()
        found = {"start": bench.write(bench.continue_run(start, "none", 0.0), "test")}
        reward = {**REWARD, "metrics": {**REWARD["metrics"], f"{__name__}:score_precision": precision}}
        for name, options in {"more": {}, "reward": {"reward": reward if precision else REWARD}}.items():
            rates = RATES if name == "more" else RATES[:2]
            found[name], line = bench.train_arm(start, name, seconds, rates, **options)
            print(f"seed {seed} {name}: {line}", flush=True)
    gained = paired_bootstrap(found["reward"].f1, found["more"].f1)
    shown = {name: round(float(arm.f1.mean()), 4) for name, arm in found.items()}
    print(f"seed {seed}: {shown} difference={gained.value:.3f} low={gained.low:.3f} high={gained.high:.3f}", flush=True)
    return found


def main() -> None:
    """Runs the seeds and prints the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds of each training after the start")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--precision", type=float, default=0.0, help="weight of the precision in the reward")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    runs = [run_seed(seed, arguments.seconds, arguments.precision) for seed in seeds]
    arms = {
        name: Arm(*(np.concatenate(parts) for parts in zip(*(run[name] for run in runs), strict=True)))
        for name in runs[0]
    }
    for name, arm in arms.items():
        print(f"{name}: f1={arm.f1.mean():.4f} precision={arm.precision.mean():.4f} exact={arm.exact.mean():.4f}")
    gained = paired_bootstrap(arms["reward"].f1, arms["more"].f1)
    for name in ("precision", "exact"):
        second = paired_bootstrap(getattr(arms["reward"], name), getattr(arms["more"], name))
        print(f"{name}: difference={second.value:.3f} low={second.low:.3f} high={second.high:.3f}")
    means = " ".join(f"{name}={arm.f1.mean():.3f}" for name, arm in arms.items())
    interval = f"difference={gained.value:.3f} low={gained.low:.3f} high={gained.high:.3f}"
    print(f"plait rewards: seeds={arguments.seeds} {means} {interval}")


if __name__ == "__main__":
    main()
