"""Writes a proposal: as a short table for the console, and as a recipe with comments."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import yaml

from ..storage.secret_values import drop_secrets
from .proposal import Proposal

MAX_WIDTH = 60  # of a column of the table, in letters
MAX_COLUMNS = 30  # of the table that are shown


def format_proposal(proposal: Proposal) -> str:
    """Returns what was found and chosen, and how to change it."""
    splits = ", ".join(f"{len(rows):,} {split}" for split, rows in proposal.table.splits.items())
    shown = proposal.columns[:MAX_COLUMNS]
    more = [f"  and {len(proposal.columns) - MAX_COLUMNS} more columns"] if len(proposal.columns) > MAX_COLUMNS else []
    lines = [
        f"{proposal.table.name}: {splits} rows",
        "",
        *format_columns([("column", "holds", "read as"), *shown]),
        *more,
    ]
    lines += ["", *format_columns([("chosen", "because", "to change it"), *proposal.choices])]
    notes = [f"note: {note}" for note in proposal.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows of texts as lines, with the columns one below the other."""
    shown = [[text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 3]}..." for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def write_commented_recipe(proposal: Proposal) -> str:
    """Returns the recipe as yaml, with a comment before each value that was chosen for a reason."""
    head = [f"# {line}".rstrip() for line in format_proposal(proposal).splitlines()]
    body = chain.from_iterable(
        format_key(key, value, key, proposal.reasons, 0) for key, value in drop_secrets(proposal.content).items()
    )
    return "\n".join([*head, "", *body, ""])


def format_key(key: str, value: Any, path: str, reasons: Mapping[str, str], depth: int) -> list[str]:
    """Returns the lines of a key: its reason, and its value, over several lines where a part of it has a reason too."""
    indent = "  " * depth
    lines = [f"{indent}# {reasons[path]}"] if reasons.get(path) else []
    if isinstance(value, Mapping) and value and depth < 2:
        parts = (format_key(name, item, f"{path}.{name}", reasons, depth + 1) for name, item in value.items())
        return [*lines, f"{indent}{dump_value(key)}:", *chain.from_iterable(parts)]
    return [*lines, f"{indent}{dump_value(key)}: {dump_value(value)}"]


def dump_value(value: Any) -> str:
    """Returns a value as yaml on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
