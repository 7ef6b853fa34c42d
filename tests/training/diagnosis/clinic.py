"""Tiny tables and recipes, sound ones and each with one planted mistake."""

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

TOPICS = {
    "sport": "goal match team player score referee stadium league".split(),
    "food": "bread soup cheese kitchen spice oven dinner salad".split(),
    "music": "violin song concert guitar melody piano chorus drum".split(),
}
FILLER = "the a we saw then one old new long short green quiet every day again before after evening".split()
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 48}
COLOURS = {"sport": (220, 40, 40), "food": (40, 200, 60), "music": (50, 60, 230)}

Rows = list[dict[str, Any]]
Content = dict[str, Any]


def write_rows(count: int, seed: int, words: int = 9) -> Rows:
    """Texts of their own about a topic, never twice the same."""
    chance, rows = random.Random(seed), []
    for number in range(count):
        topic = list(TOPICS)[number % 3]
        said = chance.sample(TOPICS[topic], 3) + chance.choices(FILLER, k=words - 3)
        chance.shuffle(said)
        rows.append({"text": " ".join([*said, f"n{seed}x{number}"]), "label": topic})
    chance.shuffle(rows)
    return rows


def write_table(path: Path, rows: Rows) -> str:
    """Writes rows as csv and returns the path."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def draw_images(folder: Path, rows: Rows, seed: int) -> None:
    """Gives each row an image of its own, in the colour of its topic."""
    chance = random.Random(seed)
    for number, row in enumerate(rows):
        image = Image.new("RGB", (24, 24), COLOURS[row["label"]])
        for _ in range(40):
            image.putpixel((chance.randrange(24), chance.randrange(24)), tuple(chance.randrange(256) for _ in range(3)))
        image.save(folder / f"{seed}-{number}.png")
        row["image"] = f"{seed}-{number}.png"


class Case:
    """A recipe and its tables, before they are written."""

    def __init__(self) -> None:
        self.train, self.validation = write_rows(96, 1), write_rows(36, 2)
        self.content: Content = {
            "model": {"text": {"config": dict(TEXT)}},
            "tokenizer": {"train": {"vocab_size": 400, "min_frequency": 1}},
            "data": {"columns": {"text": "text", "label": "label"}},
            "training": {"num_train_epochs": 4, "per_device_train_batch_size": 16, "learning_rate": 1e-3},
        }

    @property
    def training(self) -> Content:
        """The recipe's training arguments."""
        return self.content["training"]

    def write(self, folder: Path) -> Content:
        """Writes the tables and returns the recipe."""
        source = {"train": write_table(folder / "train.csv", self.train)}
        if self.validation:
            source["validation"] = write_table(folder / "validation.csv", self.validation)
        return {**self.content, "data": {"source": source, **self.content["data"]}, "output_dir": str(folder / "run")}


Change = Callable[[Case, Path], Any]
MISTAKES: dict[str, tuple[Change, str, str, str]] = {}  # name: change, level, check, words of the line


def mistake(level: str, check: str, words: str) -> Callable[[Change], Change]:
    """Registers a planted mistake, and how it must be named."""

    def register(change: Change) -> Change:
        MISTAKES[change.__name__] = (change, level, check, words)
        return change

    return register


@mistake("error", "leakage", "the same inputs as a training row")
def shared_rows(case: Case, folder: Path) -> None:
    case.train += case.validation[:18]


@mistake("warning", "leakage", "the text contains the label's name in 100 %")
def label_in_the_text(case: Case, folder: Path) -> None:
    for row in case.train + case.validation:
        row["text"] += f" {row['label']}"


@mistake("warning", "leakage", "the column code alone predicts the label")
def label_under_another_name(case: Case, folder: Path) -> None:
    for row in case.train + case.validation:
        row["code"] = f"k{list(TOPICS).index(row['label'])}"
    case.content["data"]["columns"]["text"] = ["text", "code"]
    case.content["data"]["templates"] = {"text": "{text} {code}"}


@mistake("warning", "leakage", "an item of image that is in train too")
def images_in_both_splits(case: Case, folder: Path) -> None:
    use_images(case, folder)
    for number, row in enumerate(case.validation[:6]):
        row["image"] = next(own["image"] for own in case.train[number:] if own["label"] == row["label"])


@mistake("error", "labels", "of the labels cannot be learned")
def labels_against_each_other(case: Case, folder: Path) -> None:
    for number, row in enumerate(case.train):
        row["text"] = f"all the same text of row {number // 48}"


@mistake("warning", "labels", "fewer than 5 training rows")
def a_class_with_two_rows(case: Case, folder: Path) -> None:
    for row in case.train[:2]:
        row["label"] = "chess"


@mistake("warning", "labels", "validation has no row of music, which chance hardly explains")
def a_class_absent_from_validation(case: Case, folder: Path) -> None:
    case.validation = [row for row in case.validation if row["label"] != "music"]


@mistake("warning", "labels", "without class weights")
def classes_of_unequal_size(case: Case, folder: Path) -> None:
    case.train = [row for row in write_rows(300, 1) if row["label"] == "sport"] + case.train[:15]
    case.validation = case.validation[:6]


@mistake("warning", "labels", "classes are numbers")
def prices_as_classes(case: Case, folder: Path) -> None:
    for number, row in enumerate(case.train):
        row["label"] = number * 7 % 31
    for number, row in enumerate(case.validation):
        row["label"] = number % 31


@mistake("warning", "labels", "targets are -999")
def a_mark_for_not_known(case: Case, folder: Path) -> None:
    for rows in (case.train, case.validation):
        for number, row in enumerate(rows):
            row["label"] = -999.0 if number % 20 == 0 else number % 17 + 0.5


@mistake("error", "labels", "all targets are equal")
def targets_that_are_all_equal(case: Case, folder: Path) -> None:
    for row in case.train + case.validation:
        row["label"] = 2.5


@mistake("warning", "texts", "are cut at 6 tokens")
def texts_that_are_cut(case: Case, folder: Path) -> None:
    case.content["max_length"] = 6


@mistake("error", "inputs", "with nothing to read")
def rows_without_an_input(case: Case, folder: Path) -> None:
    case.train[5]["text"] = ""


@mistake("error", "media", "cannot be read")
def a_damaged_image(case: Case, folder: Path) -> None:
    use_images(case, folder)
    for row in case.train[::4]:
        (folder / row["image"]).write_bytes(b"no image")


@mistake("warning", "media", "all of the one colour (0, 0, 0)")
def images_that_are_black(case: Case, folder: Path) -> None:
    use_images(case, folder)
    for row in case.train:
        Image.new("RGB", (24, 24)).save(folder / row["image"])


@mistake("error", "parts", "new and frozen: head")
def a_frozen_head(case: Case, folder: Path) -> None:
    case.training["frozen"] = ["head"]


@mistake("error", "settings", "the learning rate is 0")
def a_learning_rate_of_zero(case: Case, folder: Path) -> None:
    case.training["learning_rate"] = 0.0


@mistake("warning", "settings", "which is very high")
def a_learning_rate_of_one(case: Case, folder: Path) -> None:
    case.training["learning_rate"] = 1.0


@mistake("error", "settings", "the worst checkpoint would be kept")
def the_worst_is_the_best(case: Case, folder: Path) -> None:
    case.training.update(
        {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": False}
    )
    case.training.update({"eval_strategy": "epoch", "save_strategy": "epoch"})


@mistake("error", "settings", "warmup takes 500 steps")
def a_warmup_without_an_end(case: Case, folder: Path) -> None:
    case.training["warmup_steps"] = 500


@mistake("warning", "settings", "max_steps 2 overrides num_train_epochs 4")
def steps_and_epochs(case: Case, folder: Path) -> None:
    case.training["max_steps"] = 2


@mistake("warning", "settings", "eval_steps is 5000")
def an_evaluation_that_never_comes(case: Case, folder: Path) -> None:
    case.training.update({"eval_strategy": "steps", "eval_steps": 5000})


@mistake("error", "recipe", "there is no validation split")
def an_evaluation_without_rows(case: Case, folder: Path) -> None:
    case.validation = []
    case.training.update({"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True})


@mistake("error", "recipe", "label_smoothing_factor")
def smoothed_numbers(case: Case, folder: Path) -> None:
    for number, row in enumerate(case.train + case.validation):
        row["label"] = number % 17 + 0.5
    case.training["label_smoothing_factor"] = 0.1


@mistake("error", "recipe", "fp16")
def half_precision_on_a_cpu(case: Case, folder: Path) -> None:
    case.training.update({"fp16": True, "use_cpu": True})


@mistake("warning", "settings", "a contrastive batch has 4 rows")
def few_negatives(case: Case, folder: Path) -> None:
    use_images(case, folder)
    case.content |= {"task": "retrieval"}
    case.content["data"]["columns"] = {"text": "text", "image": "image"}
    case.training["per_device_train_batch_size"] = 4


def use_images(case: Case, folder: Path) -> None:
    """Gives the rows images and the model an image tower."""
    draw_images(folder, case.train, 1)
    draw_images(folder, case.validation, 2)
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 24, "patch_size": 8}
    case.content["model"] = {"image": {"config": tower}, "text": case.content["model"]["text"]}
    case.content["data"]["columns"] = {"text": "text", "image": "image", "label": "label"}
