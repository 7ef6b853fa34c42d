"""The report of a run: written when it has finished, and again when it is asked for."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from ...configuration.messages import to_one_line
from ...configuration.version import VERSION
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.labels import SINGLE
from ..data.loading import DataSplits
from ..data.media import Row
from ..explanations.modalities import explain_modalities
from ..metrics.retrieval import RetrievalMetrics
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..reports.answers import OTHER, Answers, select_evenly
from ..reports.cautions import list_cautions
from ..reports.collecting import collect_answers
from ..reports.comparison import MetricComparison, compare_answers
from ..reports.examples import choose_examples, choose_queries, list_input_columns
from ..reports.recording import Recorder, StreamRecorder
from ..reports.writing import has_report, load_report, renew_report, save_report, to_png_url
from ..tasks.base import Task
from ..tasks.image_grids import GRID_FOLDER
from ..tasks.registry import find_task
from .evaluate import measure
from .folder import HISTORY_FILE, METRICS_FILE, RUN_FOLDER, read_run_file
from .loading import check_run_model, load_model_recipe

MODALITY_ROWS = 64  # on which the report says what each modality adds
SWITCH = "PLAIT_REPORT"  # the environment variable that switches reports off: "0"


class Evaluated(NamedTuple):
    """What a report is made from: a model with its data, and what it answered for one of the splits.

    split: the name of the split, None if there was none to measure on; recorder: of its evaluation; results: the
    metrics by split, of the model and the baselines; history: the Trainer's; before: of the same evaluation before a
    training by rewards or preferences.
    """

    recipe: Recipe
    task: Task
    model: PlaitPreTrainedModel
    processor: PlaitProcessor
    data: DataSplits
    split: str | None
    recorder: Recorder | None
    results: dict[str, Any]
    history: Sequence[Mapping[str, Any]]
    before: Recorder | None = None


def is_report_wanted(recipe: Recipe) -> bool:
    """Returns whether a run writes a report: `report` in its recipe, unless the environment variable is 0."""
    return recipe.report and os.environ.get(SWITCH, "1") != "0"


def choose_recorded(recorders: Mapping[str, Recorder]) -> tuple[str | None, Recorder | None]:
    """Returns the split that a report shows, test, else validation, with its recorder."""
    split = next((name for name in ("test", "validation") if name in recorders), None)
    return split, None if split is None else recorders[split]


def write_run_report(folder: Path, found: Evaluated) -> None:
    """Writes report.html into the folder of a run whose model is saved: an error is printed and fails nothing."""
    try:
        save_report(folder, *build_report(folder, found))
    except Exception as error:  # whatever it is, the run has finished
        print(
            f"report: {folder} has no new report ({type(error).__name__}: {to_one_line(error)}); the run is whole, and "
            f"plait report {folder} tries again",
            file=sys.stderr,
        )


def build_report(folder: Path, found: Evaluated) -> tuple[dict[str, Any], Answers]:
    """Returns what a report shows, as plain values, and the answers for each row."""
    rows: Any = None if found.split is None else found.data.splits[found.split]
    errors: list[str] = []
    answers = Answers(OTHER, 0)
    if rows is not None and found.recorder is not None:
        answers = collect_answers(found.task, found.recorder, rows)
    labels = list(found.data.labels.names) if found.data.labels is not None else []
    content = {
        "plait_version": VERSION,
        "name": folder.name,
        "task": found.task.name,
        "split": found.split or "",
        "rows": answers.count,
        "seed": found.recipe.seed,
        "labels": labels,
        "metrics": found.results,
        "cautions": list_cautions(found.results, {name: len(split) for name, split in found.data.splits.items()}),
        "history": [dict(entry) for entry in found.history],
        "composition": str(found.model.composition()),
        "examples": show_examples(found, answers, rows, labels, errors),
        "modalities": describe_added(found, answers, rows, errors),
        "images": find_last_grid(folder),
        "notes": describe_measurement(found, answers),
        "errors": errors,
    }
    return content, answers


def show_examples(
    found: Evaluated, answers: Answers, rows: Any, labels: Sequence[str], errors: list[str]
) -> list[dict[str, Any]]:
    """Returns the groups of examples; what goes wrong is added to the errors."""
    if rows is None:
        return []
    columns = list_input_columns(rows.column_names, found.task.target_columns)
    try:
        if isinstance(found.recorder, StreamRecorder) and isinstance(found.recorder.metrics, RetrievalMetrics):
            return choose_queries(found.recorder.records, found.recorder.metrics.pair, rows, columns)
        before = found.before.records if isinstance(found.before, StreamRecorder) else []
        return choose_examples(answers, rows, labels, columns, [record.text for record in before])
    except Exception as error:  # examples must not cost the figures
        errors.append(f"the examples could not be shown: {type(error).__name__}: {to_one_line(error)}")
        return []


def describe_added(found: Evaluated, answers: Answers, rows: Any, errors: list[str]) -> str:
    """Returns what each modality adds to the answers for MODALITY_ROWS rows of a classifier with several modalities."""
    if rows is None or answers.kind != SINGLE or len(found.model.config.encoders) < 2:
        return ""
    chosen = [cast("Row", rows[number]) for number in select_evenly(len(rows), MODALITY_ROWS)]
    try:
        report = explain_modalities(
            found.model, found.processor, chosen, draws=1, max_length=found.recipe.max_length, seed=found.recipe.seed
        )
    except Exception as error:  # nor must this table
        errors.append(f"what each modality adds is not known: {type(error).__name__}: {to_one_line(error)}")
        return ""
    return f"{report.describe()}\n\n{report.format_table()}\n\n{len(chosen)} rows at even distances"


def find_last_grid(folder: Path) -> dict[str, str] | None:
    """Returns the newest grid of images that the run drew, as a data URL, with the name of its file."""
    grids = sorted((folder / GRID_FOLDER).glob("step-*.png"))
    return {"name": grids[-1].stem, "url": to_png_url(grids[-1])} if grids else None


def describe_measurement(found: Evaluated, answers: Answers) -> list[str]:
    """Returns how the numbers of the page were measured."""
    notes = [f"Made by plait {VERSION}; seed {found.recipe.seed}."]
    if answers.count:
        notes.append(f"Figures and examples are of the final evaluation of {answers.count:,} rows ({found.split}).")
    if answers.texts and len(answers.texts) < answers.count:
        notes.append(f"{len(answers.texts):,} generated texts at even distances are kept in report/.")
    return notes


def list_run_cautions(folder: Path, results: Mapping[str, Any]) -> list[str]:
    """Returns what to keep in mind of the metrics of a finished run, by the numbers of its rows (see
    `list_cautions`); of several tasks nothing."""
    data = read_run_file(folder.expanduser()).get("data", {})
    measured = {split: columns for split, columns in results.items() if "model" in columns}
    return list_cautions(measured, {split: facts.get("rows", 0) for split, facts in data.items()})


def renew_run_report(folder: Path) -> Path:
    """Writes the report of a finished run again from what it was made from, or without that by evaluating the model on
    its data; returns the page.

    Raises RecipeError for a folder that is not that of a finished run.
    """
    if not RUN_FOLDER.marks(folder):
        raise RecipeError(f"{folder} is not the folder of a run: pass one that plait train made")
    if has_report(folder):
        content, answers = load_report(folder)
        return renew_report(folder, {**content, "name": folder.name, "errors": []}, answers)
    check_run_model(str(folder))
    return renew_report(folder, *build_report(folder, evaluate_run(folder)))


def evaluate_run(folder: Path) -> Evaluated:
    """Evaluates the model of a finished run on its data, for a report."""
    recipe = load_model_recipe(str(folder), {})
    task = find_task(recipe.task)
    found = measure(str(folder), recipe, task)
    split = next(name for name in ("test", "validation", "train") if name in found.data.splits)
    data = found.data._replace(splits={**found.data.splits, split: found.rows})
    results = load_optional_json(folder / METRICS_FILE) or {split: {"model": found.scores}}
    history = load_optional_json(folder / HISTORY_FILE) or []
    return Evaluated(recipe, task, found.model, found.processor, data, split, found.recorder, results, history)


def load_optional_json(file: Path) -> Any:
    """Returns the content of a JSON file; None if there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def compare_runs(first: Sequence[Path], second: Sequence[Path]) -> list[MetricComparison]:
    """Compares two models, each by the reports of one training or several, on the same rows.

    Raises RecipeError for a run without a report that cannot make one, or runs that were measured on other rows.
    """
    folders = [*first, *second]
    for folder in folders:
        if not has_report(folder):
            renew_run_report(folder)
    loaded = [load_report(folder) for folder in folders]
    digests = [find_digest(folder, content["split"]) for folder, (content, _) in zip(folders, loaded, strict=True)]
    for folder, digest in zip(folders[1:], digests[1:], strict=True):
        if digests[0] and digest and digest != digests[0]:
            raise RecipeError(
                f"{folders[0]} and {folder} were measured on other rows: give both the same test data, such as a file "
                "for data.source.test, and the same seed if rows are split off at random"
            )
    answers = [found for _, found in loaded]
    return compare_answers(answers[: len(first)], answers[len(first) :])


def find_digest(folder: Path, split: str) -> str:
    """Returns the digest of the rows of a run's split; "" if it is not known."""
    return str(read_run_file(folder).get("data", {}).get(split, {}).get("digest", ""))
