"""Every task makes a report that is whole, loads nothing and fails no run."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plait.training.cli import main
from plait.training.commands import run_recipe as train
from plait.training.data.labels import MULTI, REGRESSION, SINGLE
from plait.training.reports import figures
from plait.training.reports.answers import Answers
from plait.training.reports.calibration import count_confusion
from plait.training.runs.check import check_folder
from plait.training.runs.recipe import build_recipe

from .report_runs import RECIPES, build_content

QUICK = {"classes", "search"}
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RECIPES]
FIGURES = {
    "classes": {"confusion", "reliability"},
    "labels": {"labels", "reliability"},
    "numbers": {"values"},
    "sounds": {"confusion", "reliability"},
    "search": {"recall"},
    "captions": {"scores"},
    "answers": {"scores"},
    "chats": {"scores"},
    "words": {"scores"},
    "masked": {"scores"},
    "drawings": {"scores"},
}


class Links(HTMLParser):
    """Whatever a page would load or lead to, and the tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]
        if tag not in {"meta", "img", "br", "hr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished run of each recipe, only to be read."""

    @cache
    def run(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PLAIT_REPORT", "1")
            train(build_recipe(build_content(name, folder)), "plait train")
        return folder / "run"

    return run


@pytest.mark.parametrize("name", NAMES)
def test_every_task_makes_a_report(name: str, report_of: Callable[[str], Path]) -> None:
    folder = report_of(name)
    content = json.loads((folder / "report" / "report.json").read_text())
    assert content["errors"] == []
    assert content["rows"] == 24 and content["metrics"] == json.loads((folder / "metrics.json").read_text())
    drawn = {path.stem for path in (folder / "report").glob("*.png")}
    assert drawn == {"learning_curves", *FIGURES.get(name, set())}
    assert any(group["examples"] for group in content["examples"])
    assert check_folder(folder).problems == []


@pytest.mark.parametrize("name", NAMES)
def test_the_page_loads_nothing(name: str, report_of: Callable[[str], Path]) -> None:
    page = (report_of(name) / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert not links.open
    assert links.links and all(link.startswith("data:") for link in links.links)
    assert "<script" not in page and "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page
    assert "<b>loud</b>" not in page  # the rows' own markup is text


def test_the_report_reuses_the_final_evaluation(report_of: Callable[[str], Path]) -> None:
    """What is kept gives the metrics of the run, to the last row."""
    folder = report_of("classes")
    answers = Answers.load(folder / "report" / "answers.npz")
    truth, chosen = answers.arrays["truth"], answers.arrays["chosen"]
    measured = json.loads((folder / "metrics.json").read_text())["validation"]["model"]
    assert measured["accuracy"] == pytest.approx(float((truth == chosen).mean()))
    assert count_confusion(truth, chosen, 3).sum() == answers.count == 24
    assert ((answers.arrays["confidence"] >= 1 / 3) & (answers.arrays["confidence"] <= 1)).all()
    shown = json.loads((folder / "report" / "report.json").read_text())["examples"]
    assert [example["right"] for group in shown for example in group["examples"]].count(False) == min(
        12, int((truth != chosen).sum())
    )


def test_examples_show_their_inputs(report_of: Callable[[str], Path]) -> None:
    page = (report_of("classes") / "report.html").read_text()
    assert "&amp; more" in page and "data:image/" in page
    assert "row 0" in (report_of("search") / "report.html").read_text()


def test_figures_are_pictures_of_a_useful_size(report_of: Callable[[str], Path]) -> None:
    for file in (report_of("classes") / "report").glob("*.png"):
        with Image.open(file) as image:
            assert 300 <= image.width <= 2500 and np.asarray(image.convert("L")).std() > 5


def test_a_report_that_fails_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure that cannot be drawn is named on the page; a page that cannot be written is named and nothing else."""
    monkeypatch.setenv("PLAIT_REPORT", "1")

    def fail(*_: object) -> None:
        raise ZeroDivisionError("no scale")

    monkeypatch.setattr(figures, "draw_values", fail)
    content = build_content("numbers", tmp_path)
    train(build_recipe(content), "plait train")
    run = tmp_path / "run"
    assert "Predicted against true could not be drawn: ZeroDivisionError: no scale" in (run / "report.html").read_text()
    assert (run / "report" / "learning_curves.png").is_file()
    assert "no scale" in capsys.readouterr().err
    monkeypatch.setattr("plait.training.runs.reporting.build_report", fail)
    before = (run / "model.safetensors").read_bytes()
    train(build_recipe(content), "plait train", overwrite=True)
    assert (run / "model.safetensors").read_bytes() == before and not (run / "report.html").exists()
    assert "the run is whole" in capsys.readouterr().err
    assert check_folder(run).problems == []


@pytest.mark.parametrize("kind", [SINGLE, MULTI, REGRESSION])
def test_figures_of_odd_answers(kind: str) -> None:
    """A single row, unknown labels, more classes than a matrix shows, and numbers that are not finite."""
    drawing = np.random.default_rng(0)
    labels = [f"class {number}" for number in range(40)]
    arrays = {
        SINGLE: {"truth": drawing.integers(-1, 40, 90), "chosen": drawing.integers(0, 40, 90)},
        MULTI: {"truth": drawing.integers(-1, 2, (90, 40)), "chosen": drawing.integers(0, 2, (90, 40))},
        REGRESSION: {"truth": np.append(drawing.normal(size=89), np.nan), "chosen": drawing.normal(size=90)},
    }[kind]
    arrays = {
        name: np.where(value == -1, -100, value) if kind != REGRESSION else value for name, value in arrays.items()
    }
    arrays["confidence"] = drawing.random(arrays["truth"].shape)
    for count in (90, 1):
        answers = Answers(kind, count, arrays={name: value[:count] for name, value in arrays.items()})
        drawn = [draw() for _, draw in figures.list_figures(answers, [], labels).values()]
        assert drawn and all(figure.axes for figure in drawn)
        for figure in drawn:
            figure.canvas.draw()


def test_rare_classes_are_merged_and_none_is_lost() -> None:
    """The frequent classes keep their counts, and a hundred thousand classes need no table of them all."""
    for classes in (60, 100_000):
        truth, chosen = np.random.default_rng(0).integers(0, 40, (2, 900)) * (classes // 60)
        names = [f"class {number}" for number in range(classes)]
        merged_truth, merged_chosen, kept = figures.merge_rare(truth, chosen, names)
        counts = count_confusion(merged_truth, merged_chosen, len(kept))
        assert counts.sum() == 900 and len(kept) == figures.MOST_CLASSES and kept[-1] == figures.OTHERS
        for row, name in enumerate(kept[:-1]):
            number = names.index(name)
            assert counts[row, row] == ((truth == number) & (chosen == number)).sum()
            assert counts[row].sum() == (truth == number).sum()


@pytest.mark.slow
def test_a_report_is_made_again_from_what_it_keeps_and_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of before reports gets one from its model and its data, which shows the same answers."""
    train(build_recipe(build_content("classes", tmp_path)), "plait train")  # reports are off in the tests
    run = tmp_path / "run"
    assert not (run / "report.html").exists()
    assert main(["report", str(run)]) == 0
    first = (run / "report" / "report.json").read_text()
    assert str(run / "report.html") in capsys.readouterr().out
    assert check_folder(run).problems == []
    (run / "report.html").unlink()
    assert main(["report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(run / "report.html")}
    assert (run / "report" / "report.json").read_text() == first and (run / "report.html").is_file()
    answers = Answers.load(run / "report" / "answers.npz")
    measured = json.loads((run / "metrics.json").read_text())["validation"]["model"]
    assert float((answers.arrays["truth"] == answers.arrays["chosen"]).mean()) == pytest.approx(measured["accuracy"])


def test_two_runs_are_compared_on_the_same_rows(
    report_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, copy = report_of("classes"), tmp_path / "copy"
    shutil.copytree(run, copy)
    answers = Answers.load(copy / "report" / "answers.npz")
    answers.arrays["chosen"] = answers.arrays["truth"]
    answers.save(copy / "report" / "answers.npz")
    page = tmp_path / "page.html"
    assert main(["report", str(copy), str(run), "--output", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]
    assert found["first"]["value"] == 1 and found["rows"] == 24
    wrong = 1 - found["second"]["value"]
    assert found["difference"]["value"] == pytest.approx(wrong)
    assert 0 < found["difference"]["low"] < wrong < found["difference"]["high"] <= 1
    links = Links()
    links.feed(page.read_text())
    assert not links.open and all(link.startswith("data:") for link in links.links)
    assert main(["report", str(copy), str(report_of("search"))]) == 2
    assert "other" in capsys.readouterr().err
    assert main(["report", str(copy), str(copy)]) == 2
