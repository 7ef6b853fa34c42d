"""`plait explain`: explains a model's answers for the rows of a data set, and writes a folder that can be looked at."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn import Module

from ...configuration.messages import to_one_line
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.labels import encode_labels, read_config_labels
from ..data.loading import choose_split, load_data
from ..data.media import Row
from ..data.unreadable_rows import select_readable
from ..explanations.checking.belief import check_explanations
from ..explanations.checking.check_report import CheckReport
from ..explanations.encoding import encode_numbered_row
from ..explanations.explain import explain
from ..explanations.modalities import explain_modalities
from ..explanations.modality_report import ModalityReport
from ..explanations.pages.drawing import save_overlays
from ..explanations.pages.page import render_explanations
from ..explanations.results import Explanation
from ..explanations.targets import find_score_unit
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..storage.atomic import write_json
from ..tasks.base import Task
from ..tasks.registry import find_task
from .assembly import build_collator
from .loading import load_model

PAGE_FILE = "explanation.html"
CHECK_HEADING, MODALITIES_HEADING = "which explanations can be believed", "what each modality adds"
REPORT_FILES = {CHECK_HEADING: "check.json", MODALITIES_HEADING: "modalities.json"}


@dataclass
class ExplainOptions:
    """What `plait explain` is asked for.

    output: the folder to write; method, target: of `plait.explain`; check: also check the methods, and explain with the
    best believed one unless a method is named; modalities, absence: also explain the modalities; rows: at most this
    many rows are explained, at even distances; all rows that were loaded serve as other rows.
    """

    output: Path
    method: str | None = None
    target: str | None = None
    check: bool = False
    modalities: bool = False
    absence: str = "shuffled"
    rows: int = 20


def explain_data(reference: str, recipe: Recipe, options: ExplainOptions) -> dict[str, str]:
    """Explains rows of the recipe's data and fills `options.output`; returns the texts to print by their heading.

    Raises:
        RecipeError: the folder exists, the model or the data cannot be loaded, or the model cannot be explained so.
    """
    check_output_folder(options)
    task = find_task(recipe.task)
    model, processor = load_model(reference, recipe, task)
    rows = load_rows(recipe, task, model, processor)
    task.check_inputs(list(rows[0]), model)
    Module.to(model, torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()
    numbers = range(len(rows))[:: max(1, len(rows) // options.rows)][: options.rows]
    chosen = [rows[number] for number in numbers]
    with one_line_errors():
        for number, row in zip(numbers, chosen, strict=True):  # so that errors have the number of the row in the data
            encode_numbered_row(model, processor, row, number, recipe.max_length)
        reports, found = build_explanations(model, processor, chosen, rows, recipe.max_length, options)
    texts = {name: report.format_table() for name, report in reports.items()}
    title, unit = f"{Path(reference).name}: {len(chosen)} rows", find_score_unit(model)
    write_explanations(chosen, found, reports, texts, title, options.output, unit)
    return {**texts, "page": f"{len(chosen)} rows explained by {found.method}: {options.output / PAGE_FILE}"}


def build_explanations(
    model: PlaitPreTrainedModel,
    processor: PlaitProcessor,
    rows: Sequence[Row],
    background: Sequence[Row],
    max_length: int | None,
    options: ExplainOptions,
) -> tuple[dict[str, ModalityReport | CheckReport], Explanation]:
    """Returns the reports that are asked for by their heading, and the explanations of the rows."""
    reports: dict[str, ModalityReport | CheckReport] = {}
    given = {"target": options.target, "max_length": max_length}
    arguments = {} if options.method is None else {"method": options.method}
    if options.check:
        methods = None if options.method is None else [options.method]
        checked = check_explanations(model, processor, rows, methods, background=background, **given)
        reports[CHECK_HEADING], arguments = checked, arguments or checked.best_arguments
    if options.modalities:
        absence: Any = options.absence
        reports[MODALITIES_HEADING] = explain_modalities(
            model, processor, rows, absence=absence, background=background, **given
        )
    return reports, explain(model, processor, rows, **arguments, **given)


def write_explanations(
    rows: Sequence[Row],
    found: Explanation,
    reports: Mapping[str, ModalityReport | CheckReport],
    texts: Mapping[str, str],
    title: str,
    folder: Path,
    unit: str = "nats",
) -> None:
    """Writes the explanations, the images, the reports and the page into the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    found.save(folder)
    save_overlays(rows, found, folder, unit)
    for name, report in reports.items():
        write_json(folder / REPORT_FILES[name], report.to_dict())
    page = render_explanations(rows, found, title, unit, texts)
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")


def check_output_folder(options: ExplainOptions) -> None:
    """Raises RecipeError for a folder that has files, or a number of rows below 1."""
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        raise RecipeError(f"--output {options.output} exists and is not overwritten: name another folder")
    if options.rows < 1:
        raise RecipeError(f"--rows is {options.rows}: expected at least 1")


def load_rows(recipe: Recipe, task: Task, model: PlaitPreTrainedModel, processor: PlaitProcessor) -> list[Row]:
    """Loads the rows of the recipe's data (test, else validation, else train), without those that `data.on_error`
    leaves out; labels and other targets may be missing."""
    data = load_data(recipe.data, recipe.seed, needs_labels=False, roles=task.roles)
    rows = choose_split(data.splits, None)
    task.check_columns(rows.column_names, "explained", needs_targets=False)
    rows = select_readable(rows, "explained", build_collator(recipe, task, processor, None), recipe.data.on_error)
    if task.needs_labels and "label" in rows.column_names:
        rows = encode_labels(rows, read_config_labels(model.config), "explained")
    return [cast("Row", row) for row in rows]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raises the errors of rows and models as RecipeError of one line."""
    try:
        yield
    except RecipeError:
        raise
    except (OSError, TypeError, ValueError, ArithmeticError) as error:
        raise RecipeError(to_one_line(error)) from error
