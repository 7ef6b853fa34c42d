"""Names the columns of a source by the roles that a task reads, and joins several columns of a text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...configuration.messages import suggest_nearest
from ...configuration.modalities import MEDIA, MODALITY_TABLE
from ..recipes.errors import RecipeError, check_keys
from ..recipes.schema import DataRecipe
from .cells import TEXT_COLUMNS, read_cells, replace_column

if TYPE_CHECKING:
    from datasets import Dataset

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
SUPPORTING_COLUMNS = {  # columns that are read only beside another one
    "text_pair": "text",
    **{name: row.name for row in MODALITY_TABLE.values() if row.items for name in row.columns if name != row.name},
}


def name_columns(data: "Dataset", recipe: DataRecipe, split: str, known: Sequence[str]) -> "Dataset":
    """Returns the columns that the recipe maps, renamed to their roles; without a mapping, those named like a role.

    Texts are read as text (see `read_cells`), and several columns of a text become one, or two a pair.

    Raises:
        RecipeError: a column that is missing, or that nothing would read; the message names the remedy.
    """
    roles = {name: role for role, name in map_roles(recipe, data.column_names, known).items()}
    missing = [name for name in roles if name not in data.column_names]
    if missing:
        names = ", ".join(data.column_names)
        near = suggest_nearest(missing[0], data.column_names)
        raise RecipeError(
            f"data.columns: the split {split!r} has no column {', '.join(missing)}; it has {names}{near}: "
            f"--data.columns.{roles[missing[0]]} COLUMN names another"
        )
    if not roles:
        read = next(iter(known), "text")
        raise RecipeError(
            f"data.columns: none of the columns of the split {split!r} ({', '.join(data.column_names)}) is named as "
            f"what is read ({', '.join(known)}): say which is which, --data.columns.{read} COLUMN"
        )
    data = data.select_columns(list(roles)).rename_columns({name: role for name, role in roles.items() if name != role})
    data = read_cells(disable_decoding(data))
    for role in TEXT_COLUMNS:
        if role in recipe.templates or not isinstance(recipe.columns.get(role, ""), str):
            data = join_columns(data, recipe, role)
    return fill_pairs(data) if "text_pair" in data.column_names else data


def map_roles(recipe: DataRecipe, present: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Returns the source's column of each role; of a role with several, numbered from 0: "image.0", "image.1".

    Two columns of `text` are `text` and `text_pair`, where the task knows pairs and the recipe has no template.

    Raises RecipeError for a role that takes one column, a role that is read only beside another that is not mapped, or
    a source column with two roles.
    """
    mapping = recipe.columns or {role: role for role in known if role in present}
    check_mapping(mapping, recipe.templates, explicit=bool(recipe.columns))
    roles: dict[str, str] = {}
    for role, names in mapping.items():
        if isinstance(names, str):
            roles[role] = names
        elif is_pair(role, mapping, recipe.templates, known):
            roles |= {"text": names[0], "text_pair": names[1]}
        else:
            roles |= {f"{role}.{number}": name for number, name in enumerate(names)}
    if not recipe.columns:
        alone = [role for role, other in SUPPORTING_COLUMNS.items() if role in roles and other not in roles]
        roles = {role: name for role, name in roles.items() if role not in alone}
    twice = [name for number, name in enumerate(roles.values()) if name in list(roles.values())[:number]]
    if twice:
        both = " and ".join(role for role, name in roles.items() if name == twice[0])
        raise RecipeError(f"data.columns: {twice[0]} is mapped to {both}: map each column once")
    return roles


def is_pair(
    role: str, mapping: Mapping[str, str | list[str]], templates: Mapping[str, str], known: Sequence[str]
) -> bool:
    """Returns whether the columns of a role are the two texts of the tokenizer's pair form."""
    free = "text_pair" in known and "text_pair" not in mapping and role not in templates
    return role == "text" and free and len(mapping[role]) == 2


def check_mapping(mapping: Mapping[str, str | list[str]], templates: Mapping[str, str], explicit: bool) -> None:
    """Raises RecipeError for a mapping with a column that nothing would read."""
    for role, names in mapping.items():
        if not isinstance(names, str) and role not in (*TEXT_COLUMNS, *MEDIA):
            raise RecipeError(f"data.columns.{role} is {names}: {role} takes one column; name one of them")
        if not names:
            raise RecipeError(f"data.columns.{role} names no column: name one, or leave {role} out")
        other = SUPPORTING_COLUMNS.get(role)
        if explicit and other is not None and other not in mapping:
            raise RecipeError(
                f"data.columns.{role} is read only beside {other}: map a column to {other}, or leave it out"
            )
    check_keys(templates, [role for role in mapping if role in TEXT_COLUMNS], "data.templates")
    for role, template in templates.items():
        given = mapping[role]
        names = [given] if isinstance(given, str) else given
        if set(PLACEHOLDER.findall(template)) != set(names):
            raise RecipeError(
                f"data.templates.{role} is {template!r}, but data.columns.{role} has {', '.join(names)}: name each "
                "column in braces, and no other"
            )


def join_columns(data: "Dataset", recipe: DataRecipe, role: str) -> "Dataset":
    """Returns the data with the columns of a text ("text.0", "text.1", ...) joined to one, in their place."""
    parts = [name for name in data.column_names if name == role or name.startswith(f"{role}.")]
    if not parts or (role not in recipe.templates and parts == [role]):
        return data
    names, template = recipe.columns.get(role, role), recipe.templates.get(role)
    sources = [names] if isinstance(names, str) else names
    rows = zip(*(data[part] for part in parts), strict=True)
    joined = [join_texts(dict(zip(sources, row, strict=True)), template) for row in rows]
    order = [role if name == parts[0] else name for name in data.column_names if name not in parts[1:]]
    data = data.remove_columns(parts[1:]).rename_column(parts[0], role) if parts != [role] else data
    return replace_column(data, role, joined).select_columns(order)


def join_texts(texts: Mapping[str, str | None], template: str | None) -> str | None:
    """Joins the texts of a row by column: in the template's places, or one below the other; None if all are missing.

    Raises RecipeError for a list of texts.
    """
    several = next((name for name, text in texts.items() if isinstance(text, list)), None)
    if several is not None:
        raise RecipeError(f"data.columns: {several} has lists of texts, which cannot be joined to others: map it alone")
    if not any(texts.values()):
        return None
    if template is None:
        return "\n".join(text for text in texts.values() if text)
    return PLACEHOLDER.sub(lambda place: texts[place[1]] or "", template)


def fill_pairs(data: "Dataset") -> "Dataset":
    """Returns the data with an empty text where a row has only one of `text` and `text_pair`."""
    order = data.column_names
    pairs = list(zip(data["text"], data["text_pair"], strict=True))
    if all((text is None) == (other is None) for text, other in pairs):
        return data
    for place, name in enumerate(("text", "text_pair")):
        filled = [None if pair == (None, None) else pair[place] or "" for pair in pairs]
        data = replace_column(data, name, filled)
    return data.select_columns(order)


def disable_decoding(data: "Dataset") -> "Dataset":
    """Disables the decoding of images, audio and videos, which stay {"bytes", "path"}."""
    from datasets import Audio, Image, List, Video

    for name, feature in data.features.items():
        inner = feature.feature if isinstance(feature, List) else feature
        if isinstance(inner, (Audio, Image, Video)):
            closed = replace(inner, decode=False)
            data = data.cast_column(name, List(closed) if isinstance(feature, List) else closed)
    return data
