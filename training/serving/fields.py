"""The fields of a page: what a model of a task reads, and the row that filled-in fields make."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...configuration import DOCUMENT
from ...configuration.modalities import MEDIA, MODALITIES
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ..data.columns import is_pair, join_texts
from ..data.media import TARGET_IMAGE, Row
from ..recipes.schema import DataRecipe
from ..tasks.base import Task
from .limits import check_file_field, check_messages_field, check_text_field
from .settings import ServeSettings

MESSAGES = "messages"
CHECKS = {"text": check_text_field, MESSAGES: check_messages_field}
LINES = {"context": 8, DOCUMENT: 6, "question": 2}  # of a text's box, where it is no 3
TEXT_FIELDS = {  # of tasks with texts of their own: (column, whether a row needs it)
    "question_answering": (("question", True), ("context", True)),
    "causal_lm": (("text", True),),
    "dialogue": ((MESSAGES, True),),
    "preference": ((MESSAGES, True),),
    "image_autoencoding": (),
}


@dataclass(frozen=True)
class InputField:
    """One input of a page.

    Attributes:
        name: in the API: letters, digits and _.
        column: of the row that it fills; "text.0", "text.1" are joined to one text.
        modality: "text", "image", "audio", "video" or "messages".
        label: over the input: the name of the column in the training data.
        required: a row cannot be without it.
    """

    name: str
    column: str
    modality: str
    label: str
    required: bool = False

    @property
    def lines(self) -> int:
        """The height of a text's box in lines."""
        return LINES.get(self.column, 3)


def find_fields(task: Task, model: PlaitPreTrainedModel, recipe: DataRecipe) -> list[InputField]:
    """Returns the fields of the inputs that a model reads, in the order of the modalities, texts first.

    The columns of the run's recipe name them; two or more columns of a text are fields of their own. A modality may be
    left empty if the model has others.
    """
    config: Any = model.config
    known = TEXT_FIELDS.get(task.name)
    if known is None:
        reads_text = "text" in config.encoders or config.inline
        found = find_text_fields(recipe, task.roles) if reads_text else []
        found += [("document", DOCUMENT, "text", DOCUMENT)] if DOCUMENT in getattr(config, "sides", ()) else []
        required = {"text"} if task.name == "masked_lm" else set()
    else:
        found = [
            (name, name, MESSAGES if name == MESSAGES else "text", str(recipe.columns.get(name, name)))
            for name, _ in known
        ]
        required = {name for name, needed in known if needed}
    media = [modality for modality in MEDIA if modality in config.encoders and modality in task.roles]
    for modality in media:
        found += find_media_fields(recipe, modality)
    if task.name == "image_autoencoding":
        found, required = [("image", TARGET_IMAGE, "image", "image")], {TARGET_IMAGE}
    if len(found) == 1 and task.name != "image_generation":
        required = {found[0][1]}
    return [InputField(*field, field[1] in required) for field in found]


def find_text_fields(recipe: DataRecipe, roles: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Returns (name, column, modality, label) of the texts that a recipe maps: one, a pair, or several to join."""
    given = recipe.columns.get("text", "text")
    names = [given] if isinstance(given, str) else list(given)
    if len(names) > 1 and is_pair("text", recipe.columns, recipe.templates, roles):
        columns = ["text", "text_pair"]
    elif len(names) > 1:
        columns = [f"text.{number}" for number in range(len(names))]
    else:
        columns = ["text"]
    pair = recipe.columns.get("text_pair")
    if isinstance(pair, str):
        columns, names = [*columns, "text_pair"], [*names, pair]
    return [(to_name(name), column, "text", name) for name, column in zip(names, columns, strict=True)]


def find_media_fields(recipe: DataRecipe, modality: str) -> list[tuple[str, str, str, str]]:
    """Returns (name, column, modality, label) of the images or clips that a recipe maps."""
    given = recipe.columns.get(modality, modality)
    if isinstance(given, str):
        return [(to_name(given), modality, modality, given)]
    return [(to_name(name), f"{modality}.{number}", modality, name) for number, name in enumerate(given)]


def to_name(label: str) -> str:
    """Returns a column's name as a name in the API."""
    return re.sub(r"\W+", "_", label).strip("_") or "input"


def build_row(
    fields: Sequence[InputField], values: Mapping[str, Any], recipe: DataRecipe, settings: ServeSettings
) -> dict[str, Any]:
    """Returns the row of filled-in fields, by the names of the API; an empty one is None.

    Raises ValueError for nothing filled in, a field that a row needs, a text or a file above the limits.
    """
    row: dict[str, Any] = {}
    for field in fields:
        value = values.get(field.name)
        if isinstance(value, str) and not value.strip():
            value = None
        if value is None and field.required:
            raise ValueError(f"{field.label} is empty: fill it in")
        if value is not None:
            CHECKS.get(field.modality, check_file_field)(field.label, value, settings)
        row[field.column] = value
    if fields and all(value is None for value in row.values()):
        raise ValueError(f"nothing is filled in: give {' or '.join(field.label for field in fields)}")
    return join_row_texts(row, fields, recipe)


def join_row_texts(row: Row, fields: Sequence[InputField], recipe: DataRecipe) -> dict[str, Any]:
    """Returns a row with its texts "text.0", "text.1" joined to "text", as in training."""
    parts = {field.label: row[field.column] for field in fields if field.column.startswith("text.")}
    if not parts:
        filled = dict(row)
        if "text_pair" in filled and (filled["text"] or filled["text_pair"]):
            filled |= {name: filled[name] or "" for name in ("text", "text_pair")}
        return filled
    others = {name: value for name, value in row.items() if not name.startswith("text.")}
    return {"text": join_texts(parts, recipe.templates.get("text")), **others}


def select_present(row: Row) -> dict[str, Any]:
    """Returns the columns of a row that are filled in."""
    return {name: value for name, value in row.items() if value is not None}


def list_modalities(fields: Sequence[InputField]) -> list[str]:
    """Returns the modalities of fields, each once, in the fixed order."""
    found = {field.modality for field in fields}
    return [modality for modality in MODALITIES if modality in found or (modality == "text" and MESSAGES in found)]
