"""Writes a report into a run folder: figures as PNG files, what they are drawn from, and the page."""

import json
import shutil
import sys
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configuration.checksums import CHECKSUM_FILE, record_checksums
from ...configuration.messages import to_one_line
from ..recipes.errors import RecipeError
from ..storage.atomic import UNFINISHED, install_folder, write_json
from .answers import Answers
from .figures import list_figures
from .page import render_report

REPORT_FILE, REPORT_FOLDER = "report.html", "report"  # in a run folder
REPORT_CONTENT, ANSWERS_FILE = "report.json", "answers.npz"  # in REPORT_FOLDER
REPORT_DPI = 110
NO_MATPLOTLIB = "the figures need matplotlib, which is not installed: pip install matplotlib, then plait report RUN"


def save_report(folder: Path, content: dict[str, Any], answers: Answers) -> Path:
    """Writes report.html, and the figures with what they are drawn from into `report/`; returns the page.

    Each file is whole or absent. A figure that cannot be drawn is named on the page and on the error stream.
    """
    staged = folder / f".report{UNFINISHED}"
    shutil.rmtree(staged, ignore_errors=True)
    (staged / REPORT_FOLDER).mkdir(parents=True)
    content = {**content, "errors": list(content["errors"])}
    figures = draw_figures(staged / REPORT_FOLDER, content, answers)
    answers.save(staged / REPORT_FOLDER / ANSWERS_FILE)
    write_json(staged / REPORT_FOLDER / REPORT_CONTENT, content)
    (staged / REPORT_FILE).write_text(render_report(content, figures), encoding="utf-8")
    for error in content["errors"]:
        print(f"report: {error}", file=sys.stderr)
    for old in (folder / REPORT_FOLDER).glob("*.png"):
        if not (staged / REPORT_FOLDER / old.name).exists():
            old.unlink()
    install_folder(staged, folder)
    return folder / REPORT_FILE


def draw_figures(folder: Path, content: dict[str, Any], answers: Answers) -> dict[str, tuple[str, str]]:
    """Saves the figures into a folder and returns for each its heading and its image as a data URL; what fails is added
    to the content's errors."""
    found: dict[str, tuple[str, str]] = {}
    for name, (heading, draw) in list_figures(answers, content["history"], content["labels"]).items():
        try:
            draw().savefig(str(folder / f"{name}.png"), dpi=REPORT_DPI)
        except ModuleNotFoundError as error:
            content["errors"].append(NO_MATPLOTLIB if error.name == "matplotlib" else to_one_line(error))
            return {}
        except Exception as error:  # one figure must not cost the others, nor the report
            content["errors"].append(f"{heading} could not be drawn: {type(error).__name__}: {to_one_line(error)}")
            continue
        found[name] = (heading, to_png_url(folder / f"{name}.png"))
    return found


def to_png_url(file: Path) -> str:
    """Returns a PNG file as a data URL."""
    return f"data:image/png;base64,{b64encode(file.read_bytes()).decode()}"


def has_report(folder: Path) -> bool:
    """Returns whether a run folder holds what a report is made from."""
    return (folder / REPORT_FOLDER / REPORT_CONTENT).is_file() and (folder / REPORT_FOLDER / ANSWERS_FILE).is_file()


def load_report(folder: Path) -> tuple[dict[str, Any], Answers]:
    """Loads what a run's report was made from.

    Raises RecipeError if there is none, or it is damaged.
    """
    place = folder / REPORT_FOLDER
    if not has_report(folder):
        raise RecipeError(f"{folder} has no {REPORT_FOLDER}/{REPORT_CONTENT}: plait report {folder} makes it")
    try:
        return json.loads((place / REPORT_CONTENT).read_text(encoding="utf-8")), Answers.load(place / ANSWERS_FILE)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            f"{place} is damaged ({to_one_line(error)}): remove it, then plait report {folder}"
        ) from error


def renew_report(folder: Path, content: Mapping[str, Any], answers: Answers) -> Path:
    """Writes a report into a finished run, whose checksums then know the new page."""
    if not (folder / CHECKSUM_FILE).is_file():
        return save_report(folder, dict(content), answers)
    with record_checksums(folder):
        return save_report(folder, dict(content), answers)
