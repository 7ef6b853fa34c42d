"""Two towers become one model that answers questions about pictures: `python examples/picture_questions.py`.

Trains by the recipe `easy_vqa_demo` (MiniLM reads the question, a small ResNet looks at the picture), saves, then in
a fresh process reloads what was saved with transformers' Auto classes, answers test questions and draws a sheet of
pictures, questions and answers. Its last line:

    plait demo: accuracy=0.xxx blind=0.xxx majority=0.xxx seconds=nnn saved=PATH
"""

import argparse
import json
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

EXAMPLES = 12  # on the sheet; the first three are printed too
SHEET = "answers.png"


def new_folder(parent: Path) -> Path:
    """`parent`/easy-vqa-demo, or the first of -2, -3, ... that is not there yet: no run overwrites another."""
    names = ["easy-vqa-demo", *(f"easy-vqa-demo-{number}" for number in range(2, 10_000))]
    return next(parent / name for name in names if not (parent / name).exists())


def train(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train by the recipe; the test metrics beside their baselines."""
    from plait.training.recipes.files import parse_overrides
    from plait.training.runs.recipe import load_recipe
    from plait.training.runs.train import train

    recipe = load_recipe("easy_vqa_demo", parse_overrides(["--output_dir", str(folder), *overrides]))
    return train(recipe, command="python examples/picture_questions.py")["test"]


def answer(folder: Path) -> None:
    """What a user does with the saved folder; run in a process of its own."""
    import torch
    from easy_vqa import get_test_image_paths, get_test_questions
    from transformers import AutoModelForSequenceClassification, AutoProcessor

    import plait as plait  # registers plait with the Auto classes

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    questions, answers, numbers = get_test_questions()
    paths = get_test_image_paths()
    chosen = range(0, len(questions), len(questions) // EXAMPLES)[:EXAMPLES]
    asked = [questions[row] for row in chosen]
    pictures = [paths[numbers[row]] for row in chosen]
    with torch.inference_mode():
        logits = model(**processor(text=asked, images=pictures, return_tensors="pt")).logits
    found = [model.config.id2label[label] for label in logits.argmax(-1).tolist()]
    right = [answers[row] for row in chosen]
    for question, said, truth in list(zip(asked, found, right, strict=True))[:3]:
        print(f"  {question} -> {said} (right answer: {truth})")
    draw(folder / SHEET, pictures, asked, found, right)


def draw(path: Path, pictures: list[str], asked: list[str], found: list[str], right: list[str]) -> None:
    """A sheet of pictures with question and answer below; a wrong answer is red."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    figure, axes = pyplot.subplots(3, 4, figsize=(11, 10))
    for axis, picture, question, said, truth in zip(axes.flat, pictures, asked, found, right, strict=True):
        axis.imshow(Image.open(picture))
        axis.set_xticks([])
        axis.set_yticks([])
        verdict = said if said == truth else f"{said} (right: {truth})"
        colour = "black" if said == truth else "red"
        axis.set_xlabel("\n".join([*textwrap.wrap(question, 26), verdict]), color=colour)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    print(f"  the sheet: {path}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other --key value pairs change the recipe.",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where the run's folder is made (default ./runs)"
    )
    parser.add_argument("--answer", type=Path, metavar="FOLDER", help="only answer with a model saved before")
    options, overrides = parser.parse_known_args()
    if options.answer:
        answer(options.answer)
        return 0
    start = time.monotonic()
    folder = new_folder(options.runs)
    results = train(folder, overrides)
    print("reloading in a fresh process with AutoModelForSequenceClassification and AutoProcessor", flush=True)
    subprocess.run([sys.executable, __file__, "--answer", str(folder)], check=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    scores = {name: results[name]["accuracy"] for name in ("model", "blind", "majority")}
    (folder / "demo.json").write_text(json.dumps(scores, indent=2) + "\n")
    page = folder / "report.html"
    if page.is_file():
        print(f"open {page.resolve().as_uri()}: learning curves, confusions, right and wrong answers")
    seconds = time.monotonic() - start
    print(
        f"plait demo: accuracy={scores['model']:.3f} blind={scores['blind']:.3f} majority={scores['majority']:.3f} "
        f"seconds={seconds:.0f} saved={folder}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
