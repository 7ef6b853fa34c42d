"""Proposes a recipe for a table: what it holds, what is to be learned, and by which model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from ...configuration.modalities import MEDIA
from ..data.labels import REGRESSION
from ..recipes.errors import RecipeError
from ..recipes.files import set_dotted
from ..recipes.schema import DataRecipe, parse_recipe
from .columns import ColumnFacts, describe_columns
from .inputs import InputColumns, choose_inputs
from .models import ModelPlan, plan_model
from .possibilities import describe_possibilities
from .schedule import plan_training
from .table import SourceTable, read_table
from .target import TargetFacts, describe_target, find_target_column, shorten_names
from .towers import list_cached_models
from .vocabulary import describe_vocabulary

PROPOSED_TASKS = ("classification", REGRESSION, "generation", "retrieval", "image_generation")
TASK_OF_TARGET = {"classes": "classification", "labels": "classification", "number": "classification"}
TASK_OF_TARGET |= {"text": "generation", "image": "image_generation"}
TARGET_ROLES = {"classification": "label", "generation": "target", "image_generation": "target_image"}
SMALL_TABLE, LARGE_TABLE, FEW_FRESH_ROWS = 100, 50_000, 1000  # rows


class Choice(NamedTuple):
    """One thing that was chosen: what, why, and the option that changes it."""

    what: str
    why: str
    option: str


class Proposal(NamedTuple):
    """A proposed recipe.

    content: its keys and values, with the user's own; reasons: why, by dotted key; columns: of each column its name,
    what it holds and how it is used; choices: what was chosen; notes: what else to know.
    """

    content: dict[str, Any]
    reasons: dict[str, str]
    columns: list[tuple[str, str, str]]
    choices: list[Choice]
    notes: list[str]
    table: SourceTable


def propose(
    source: str | Mapping[str, str] | None,
    target: str | None = None,
    inputs: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Proposal:
    """Proposes a recipe for a table.

    Args:
        source: as `data.source` in a recipe.
        target: the column to predict (default: one that is called label, target or class).
        inputs: the columns to read (default: all images, audio, videos and texts).
        overrides: values of the recipe by dotted key, which are kept as they are.

    Raises RecipeError, before any work, for a table from which nothing can be learned; the message says what to do.
    """
    given = read_task_name(overrides or {})
    task = given.get("task") or ("generation" if given.get("model.decoder") is not None else None)
    if task is not None and task not in PROPOSED_TASKS:
        raise RecipeError(
            f"--task {task}: recipes are proposed for {', '.join(PROPOSED_TASKS)}; for others name a recipe that comes "
            f"with plait: plait train RECIPE --data.source {source}"
        )
    list_cached_models.cache_clear()  # a checkpoint may have come since the last proposal
    table = read_table(build_data_recipe(source, given))
    columns = describe_columns(table)
    wanted = target if target is not None else find_given_column(given, "label", "target", "target_image")
    name = None if task == "retrieval" else find_target_column(table, columns, wanted)
    inputs = inputs if inputs is not None else find_given_inputs(given)
    if name is None and task != "retrieval":
        raise RecipeError(describe_possibilities(table, columns))
    found = None
    if name is not None:
        separator = (given["data.label_separator"] or "") if "data.label_separator" in given else None
        found = describe_target(
            table, columns[name], task, given.get("data.regression"), separator, given.get("data.none_label")
        )
    return build_proposal(table, columns, found, inputs, given)


def read_task_name(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the user's values; the task regression is classification with a number as the label."""
    if overrides.get("task") != REGRESSION:
        return dict(overrides)
    return {**overrides, "task": "classification", "data.regression": True}


def build_data_recipe(source: str | Mapping[str, str] | None, given: Mapping[str, Any]) -> DataRecipe:
    """Returns the recipe's section `data` with the source and the values that the user gives."""
    content: dict[str, Any] = {}
    for key, value in given.items():
        if key == "data" or key.startswith("data."):
            set_dotted(content, key, value)
    data = parse_recipe(content).data
    data.source = dict(source) if isinstance(source, Mapping) else source
    return data


def find_given_column(given: Mapping[str, Any], *roles: str) -> str | None:
    """Returns the column that the user maps to one of these roles."""
    columns = collect_given_columns(given)
    return next((columns[role] for role in roles if isinstance(columns.get(role), str)), None)


def collect_given_columns(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the mapping of columns that the user gives, whole or by role."""
    whole = given.get("data.columns") or {}
    single = {
        key.removeprefix("data.columns."): value for key, value in given.items() if key.startswith("data.columns.")
    }
    return {**(whole if isinstance(whole, dict) else {}), **single}


def find_given_inputs(given: Mapping[str, Any]) -> list[str] | None:
    """Returns the columns that the user maps to modalities; None without any."""
    columns = collect_given_columns(given)
    found = [columns[role] for role in ("text", "document", *MEDIA) if columns.get(role)]
    names = [name for value in found for name in ([value] if isinstance(value, str) else value)]
    return names or None


def build_proposal(
    table: SourceTable,
    columns: Mapping[str, ColumnFacts],
    target: TargetFacts | None,
    wanted: Sequence[str] | None,
    given: Mapping[str, Any],
) -> Proposal:
    """Builds the recipe of a table whose target is known."""
    inputs = choose_inputs(table, columns, target, wanted)
    task = given.get("task") or ("retrieval" if target is None else TASK_OF_TARGET[target.kind])
    inputs = narrow_inputs(inputs, columns, task, target)
    data, data_reasons = plan_data(table, columns, inputs, target, task)
    rows = count_training_rows(table, data)
    model = plan_model(task, inputs, columns, target, rows, given)
    measured, metric = count_validation_rows(table, data), model.metrics[0] if model.metrics else "loss"
    own = {key.removeprefix("training."): value for key, value in given.items() if key.startswith("training.")}
    training = plan_training(
        rows, model.frozen, model.trained, model.fresh, measured, metric, {**model.training, **own}
    )
    arguments = {**training.arguments, **model.training}
    content = {"task": task, "model": model.content, "data": data, **model.sections, "training": arguments}
    content |= {"metrics": model.metrics, "seed": 0, "output_dir": name_run_folder(table, target)}
    reasons = {**data_reasons, **model.reasons, **{f"training.{key}": why for key, why in training.reasons.items()}}
    reasons["task"] = f"the target {target.column} is {target.describe()}" if target is not None else "pairs that match"
    for key, value in given.items():
        set_dotted(content, key, value)
        reasons = {name: why for name, why in reasons.items() if name != key and not name.startswith(f"{key}.")}
        reasons[key] = "as given"
    notes = [*(target.notes if target is not None else ()), *inputs.notes, *describe_small_table(table)]
    notes += describe_fresh_towers(model.fresh, rows)
    texts = [name for name in inputs.used if columns[name].kind == "text"]
    notes += describe_vocabulary(table, texts, model.towers.get("text"))
    shown = list_columns(columns, inputs, target, TARGET_ROLES.get(task, ""))
    return Proposal(content, reasons, shown, list_choices(content, reasons, model, target), notes, table)


def narrow_inputs(
    inputs: InputColumns, columns: Mapping[str, ColumnFacts], task: str, target: TargetFacts | None
) -> InputColumns:
    """Returns the inputs that the task can read; retrieval has two sides.

    Raises RecipeError for columns that are no two sides.
    """
    if task != "retrieval":
        return inputs
    texts = [name for name, facts in columns.items() if facts.kind in ("text", "texts")]
    images = [name for name, facts in columns.items() if facts.kind == "image"]
    if len(images) >= 1 and texts:
        roles: dict[str, str | list[str]] = {"text": texts[0], "image": images[0]}
    elif len(texts) >= 2:
        roles = {"text": texts[0], "document": texts[1]}
    else:
        raise RecipeError("--task retrieval needs two sides: a column of texts and one of images, or two of texts")
    given = [name for name in inputs.used if name in (*texts, *images)]
    chosen = {name: role for role, name in roles.items() if isinstance(name, str)}
    left = {
        name: f"retrieval has two sides (--data.columns.{columns[name].kind} {name})"
        for name in given
        if name not in chosen
    }
    others = {name: why for name, why in inputs.left_out.items() if name not in chosen}
    return InputColumns(roles, None, chosen, {**others, **left})


def plan_data(
    table: SourceTable,
    columns: Mapping[str, ColumnFacts],
    inputs: InputColumns,
    target: TargetFacts | None,
    task: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the recipe's section `data`, and the reasons."""
    defaults = asdict(DataRecipe())
    data = {item.name: getattr(table.data, item.name) for item in fields(DataRecipe)}
    data = {name: value for name, value in data.items() if value != defaults[name] or name == "source"}
    if isinstance(data["source"], str) and Path(data["source"]).expanduser().exists():
        data["source"] = str(Path(data["source"]).expanduser())
    reasons: dict[str, str] = {}
    data["columns"] = dict(inputs.columns)
    if inputs.template is not None:
        data["templates"] = {"text": inputs.template}
        reasons["data.templates"] = "how several columns become one text"
    data |= plan_splits(table, reasons)
    if target is not None:
        data["columns"][TARGET_ROLES[task]] = target.column
        data |= plan_labels(table, target, data, reasons)
    used = [columns[name] for name in inputs.used]
    if any(facts.media is not None or facts.missing for facts in used):
        data["on_error"] = "skip"
        reasons["data.on_error"] = "rows that cannot be read, or have nothing to read, are left out and counted"
    return data, reasons


def plan_splits(table: SourceTable, reasons: dict[str, str]) -> dict[str, float]:
    """Returns the fractions of the splits that the table does not have."""
    found: dict[str, float] = {}
    if "test" not in table.splits and "validation" not in table.splits:
        found["test_fraction"] = 0.1 if len(table.rows) >= LARGE_TABLE else 0.2
        reasons["data.test_fraction"] = (
            "the table has no test rows; rows that share an image, clip or video stay together"
        )
    if "validation" not in table.splits:
        found["validation_fraction"] = 0.1
        reasons["data.validation_fraction"] = "of the training rows, to choose the best checkpoint by"
    return found


def plan_labels(
    table: SourceTable, target: TargetFacts, data: Mapping[str, Any], reasons: dict[str, str]
) -> dict[str, Any]:
    """Returns the keys about labels; classes of a single row are left out where rows are split at random."""
    found: dict[str, Any] = {}
    left_out: dict[str, list[Any]] = {}
    if target.kind == "number":
        found["regression"] = True
        reasons["data.regression"] = "the target is a number; it is standardized in training and given back in its unit"
    if target.kind in ("classes", "labels"):
        names = [name for name in target.names if name not in target.rare or "test_fraction" not in data]
        if len(names) < 2 and target.kind == "classes":
            raise RecipeError(
                f"--target {target.column}: apart from classes of a single row there is only {names or 'none'}: at "
                "least two classes need two rows or more"
            )
        found["labels"] = names
        reasons["data.labels"] = "the classes, in the order of the model's outputs"
    if target.separator is not None:
        found["label_separator"] = target.separator
    if target.rare and "test_fraction" in data:
        left_out[target.column] = find_raw_cells(table, target)
        reasons["data.leave_out"] = f"a single row cannot be learned and tested: {shorten_names(target.rare)}"
    if target.kind in ("text", "image") and has_empty_texts(table, target.column):
        left_out[target.column] = [None]
        reasons["data.leave_out"] = "rows without a target have nothing to learn from"
    return found | ({"leave_out": left_out} if left_out else {})


def find_raw_cells(table: SourceTable, target: TargetFacts) -> list[Any]:
    """Returns the cells of the classes of a single row, as the table holds them."""
    feature: Any = table.rows.features[target.column]
    cells = {cell for cell in table.rows[target.column][:] if cell is not None and cell == cell}
    named = {cell: feature.int2str(cell) if hasattr(feature, "int2str") else name_cell(cell) for cell in cells}
    return sorted((cell for cell, name in named.items() if name in target.rare), key=str)


def name_cell(cell: Any) -> str:
    """Returns the name of a class, whole numbers without a decimal point."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def has_empty_texts(table: SourceTable, name: str) -> bool:
    """Returns whether a column of texts has empty cells."""
    return getattr(table.rows.features[name], "dtype", "") in ("string", "large_string") and None in table.rows[name][:]


def count_training_rows(table: SourceTable, data: Mapping[str, Any]) -> int:
    """Counts the rows that are left to train on."""
    kept = len(table.rows) * (1 - data.get("test_fraction", 0)) * (1 - data.get("validation_fraction", 0))
    limit = data.get("max_rows")
    limit = limit.get("train") if isinstance(limit, Mapping) else limit
    return max(1, min(int(kept), limit or int(kept)))


def count_validation_rows(table: SourceTable, data: Mapping[str, Any]) -> int:
    """Counts the rows by which the best checkpoint is chosen."""
    if "validation" in table.splits:
        return len(table.splits["validation"])
    return int(len(table.rows) * (1 - data.get("test_fraction", 0)) * data.get("validation_fraction", 0))


def name_run_folder(table: SourceTable, target: TargetFacts | None) -> str:
    """Returns the run folder of a table and its target."""
    ending = "retrieval" if target is None else target.column
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{table.name}-{ending}".lower())
    return f"runs/{'-'.join(filter(None, name.split('-')))}"


def describe_small_table(table: SourceTable) -> list[str]:
    """Returns a note on a table that is too small to measure well."""
    rows = sum(map(len, table.splits.values()))
    if rows >= SMALL_TABLE:
        return []
    return [f"{rows} rows are few: the metrics are of a handful of rows and say little"]


def describe_fresh_towers(fresh: Sequence[str], rows: int) -> list[str]:
    """Returns a note on new towers that have few rows to learn from."""
    if not fresh or rows >= FEW_FRESH_ROWS:
        return []
    options = " ".join(f"--model.{part} NAME" for part in fresh)
    return [f"new towers learn from {rows} rows alone, which are few: a pretrained one is likely better ({options})"]


def list_columns(
    columns: Mapping[str, ColumnFacts], inputs: InputColumns, target: TargetFacts | None, role: str
) -> list[tuple[str, str, str]]:
    """Returns of each column its name, what it holds, and how it is used."""
    rows = []
    for name, facts in columns.items():
        if target is not None and name == target.column:
            missing = f"; {facts.missing} missing" if facts.missing else ""
            rows.append((name, f"{target.describe()}{missing}", role))
        else:
            rows.append((name, facts.describe(), inputs.used.get(name) or f"- ({inputs.left_out.get(name, '')})"))
    return rows


def list_choices(
    content: Mapping[str, Any], reasons: Mapping[str, str], model: ModelPlan, target: TargetFacts | None
) -> list[Choice]:
    """Returns the choices that a user may want to change."""
    task = content["task"] if not content["data"].get("regression") else REGRESSION
    choices = [Choice(f"task {task}", reasons.get("task", ""), "--task")]
    choices += [
        Choice(f"{part}: {tower.describe()}", tower.why, f"--model.{part}") for part, tower in model.towers.items()
    ]
    if model.frozen:
        choices.append(
            Choice(f"frozen: {', '.join(model.frozen)}", reasons.get("model.freeze", ""), "--model.freeze '[]'")
        )
    data, training = content["data"], content["training"]
    if "test_fraction" in data:
        choices.append(Choice(f"test rows: {data['test_fraction']:.0%}", "the table has none", "--data.test_fraction"))
    if data.get("max_rows") is not None:
        choices.append(Choice(f"rows: at most {format_limit(data['max_rows'])}", "as given", "--data.max_rows"))
    if "leave_out" in data:
        choices.append(Choice("rows left out", reasons.get("data.leave_out", ""), "--data.leave_out '{}'"))
    epochs = training["num_train_epochs"]
    choices.append(
        Choice(f"up to {epochs} epochs", reasons.get("training.num_train_epochs", ""), "--training.num_train_epochs")
    )
    return choices


def format_limit(limit: int | Mapping[str, int]) -> str:
    """Returns the largest number of rows of every split, or of each."""
    if not isinstance(limit, Mapping):
        return f"{limit:,} of each split"
    return ", ".join(f"{rows:,} {split}" for split, rows in limit.items())
