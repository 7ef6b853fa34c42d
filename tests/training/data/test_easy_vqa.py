"""Captions of easy-VQA's pictures, from what is asked and answered about them."""

import re

import pytest

from plait.training.data.easy_vqa import (
    COLOURS,
    SHAPES,
    TEST_CAPTIONS,
    TRAINING_CAPTIONS,
    Scene,
    build_captioned_images,
    derive_scenes,
)
from plait.training.data.sources import SOURCES


@pytest.mark.parametrize(
    ("question", "answer", "shapes", "colours"),
    [
        ("what shape is in the image?", "circle", {"circle"}, set(COLOURS)),
        ("what is the blue shape?", "triangle", {"triangle"}, {"blue"}),
        ("what color is the rectangle?", "red", {"rectangle"}, {"red"}),
        ("is there a teal shape?", "yes", set(SHAPES), {"teal"}),
        ("is there a teal shape?", "no", set(SHAPES), set(COLOURS) - {"teal"}),
        ("does the image contain no circle?", "yes", {"rectangle", "triangle"}, set(COLOURS)),
        ("is no green shape present?", "no", set(SHAPES), {"green"}),
        ("does the image not contain a circle?", "no", {"circle"}, set(COLOURS)),
    ],
)
def test_what_a_question_says(question: str, answer: str, shapes: set[str], colours: set[str]) -> None:
    assert Scene().narrow(question, answer) == (frozenset(shapes), frozenset(colours))


def test_rows_of_known_pictures_alone() -> None:
    questions = ["what is the blue shape?", "is there a red shape?", "what shape is in the image?"]
    scenes = derive_scenes(questions, ["circle", "yes", "triangle"], [0, 1, 1])
    paths = {0: "0.png", 1: "1.png"}
    every = build_captioned_images(scenes, paths, TRAINING_CAPTIONS, each=True)
    assert len(every) == 2 * len(TRAINING_CAPTIONS)
    assert set(every["combination"]) == {"blue circle", "red triangle"}
    scenes = derive_scenes(questions[:2], ["circle", "yes"], [0, 1])  # of the second only the colour is known
    (row,) = build_captioned_images(scenes, paths, TEST_CAPTIONS, each=False)
    assert row == {
        "text": "an image showing a blue circle",
        "shape": "circle",
        "colour": "blue",
        "combination": "blue circle",
        "target_image": "0.png",
    }


def test_the_package_contradicts_itself_nowhere() -> None:
    """Every answer fits the others about its picture, and no wording is in both splits."""
    package = pytest.importorskip("easy_vqa")
    scenes = derive_scenes(*package.get_test_questions())
    assert all(scene.shapes and scene.colours for scene in scenes.values())
    assert sum(len(scene.shapes) == len(scene.colours) == 1 for scene in scenes.values()) > 0.85 * len(scenes)
    test = SOURCES["easy_vqa_pictures"]()["test"]
    assert len(set(test["combination"])) == len(SHAPES) * len(COLOURS)
    for row in test:
        assert set(row["combination"].split()) <= set(re.findall("[a-z]+", row["text"]))
    assert not set(TRAINING_CAPTIONS) & set(TEST_CAPTIONS)
