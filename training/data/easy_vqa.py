"""The images of easy-VQA with captions, which are derived from the questions and answers about them alone."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datasets import Dataset

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
TRAINING_CAPTIONS = (
    "a {colour} {shape}",
    "{colour} {shape}",
    "a picture of a {colour} {shape}",
    "there is a {shape}, it is {colour}",
    "one {shape} in {colour}",
    "a small picture with a {colour} {shape}",
    "the {shape} is {colour}",
    "a {shape} in {colour}",
    "{shape}: {colour}",
    "{shape} of the colour {colour}",
    "{colour}, a {shape}",
    "I would like to see a {colour} {shape}",
)
TEST_CAPTIONS = (
    "an image showing a {colour} {shape}",
    "draw me a {shape} that is {colour}",
    "{shape}, coloured {colour}",
)
NEGATIONS = {"no", "not"}


class Scene(NamedTuple):
    """What an image may still show, given the answers so far: its shape and its colour."""

    shapes: frozenset[str] = frozenset(SHAPES)
    colours: frozenset[str] = frozenset(COLOURS)

    def narrow(self, question: str, answer: str) -> "Scene":
        """Returns the scene that a question with its answer leaves: an answer names a shape or colour, "yes" and "no"
        confirm or exclude what is asked ("is there no circle?" the other way around)."""
        words = set(re.findall("[a-z]+", question.lower()))
        agrees = (answer == "yes") != bool(words & NEGATIONS)
        return Scene(
            *(narrow_names(left, known, words, answer, agrees) for left, known in zip(self, Scene(), strict=True))
        )


def narrow_names(
    left: frozenset[str], known: frozenset[str], words: set[str], answer: str, agrees: bool
) -> frozenset[str]:
    """Returns the names that are left of a kind (shapes or colours). words: of the question; agrees: whether a "yes" or
    "no" confirms the name that it asks about."""
    asked = known & words
    if answer in known:
        return left & {answer}
    if not asked:
        return left
    if answer in ("yes", "no"):
        return left & asked if agrees else left - asked
    return left & asked  # "what is the blue shape?" says that the shape is blue


def derive_scenes(questions: Sequence[str], answers: Sequence[str], images: Sequence[int]) -> dict[int, Scene]:
    """Returns the scene of each image, by its number, from all questions about it."""
    scenes: dict[int, Scene] = {}
    for question, answer, image in zip(questions, answers, images, strict=True):
        scenes[image] = scenes.get(image, Scene()).narrow(question, answer)
    return scenes


def build_captioned_images(
    scenes: dict[int, Scene], paths: dict[int, str], captions: Sequence[str], each: bool
) -> "Dataset":
    """Builds rows with `text`, `target_image`, `shape`, `colour` and `combination` ("red circle") of the images whose
    shape and colour are known: one for each caption, or one of them in turn."""
    from datasets import Dataset

    rows = []
    for number, (image, scene) in enumerate(sorted(scenes.items())):
        if len(scene.shapes) != 1 or len(scene.colours) != 1:
            continue
        names = {"shape": next(iter(scene.shapes)), "colour": next(iter(scene.colours))}
        own = {**names, "combination": f"{names['colour']} {names['shape']}", "target_image": paths[image]}
        chosen = captions if each else [captions[number % len(captions)]]
        rows += [{"text": caption.format(**names), **own} for caption in chosen]
    return Dataset.from_list(rows)
