"""Checks of the parts of a model: what is pretrained, new, frozen and trained, and whether that can be meant."""

from collections.abc import Iterator
from typing import Any

from ...modeling.composition.summary import ComponentSummary
from .findings import Finding, name_some
from .subject import BuiltSubject, attach_model

PARTS_CHECK = "parts"


def check_trained_parts(subject: BuiltSubject, facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields the table of the model's parts, and parts that are frozen although they are new."""
    with attach_model(subject) as model:
        table = model.composition()
    rows: list[ComponentSummary] = table.rows
    facts["parts"] = [vars(row) for row in rows]
    total, trained = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
    head = f"{total:,} parameters, of which {trained:,} are trained"
    yield Finding(
        PARTS_CHECK,
        "ok" if trained else "error",
        f"{head}\n{table}",
        "" if trained else "every part is frozen: take one out of model.freeze or training.frozen",
    )
    if trained:
        yield from check_frozen_parts(rows)


def list_fresh_parts(model: Any) -> set[str]:
    """Returns the parts of a model of which most weights are new."""
    return {row.part for row in model.composition().rows if 2 * row.fresh >= row.parameters}


def check_frozen_parts(rows: list[ComponentSummary]) -> Iterator[Finding]:
    """Yields an error for new parts that are frozen, and so stay random."""
    frozen = [row for row in rows if row.fresh and not row.trainable]
    pretrained = [row.part for row in frozen if row.fresh < row.parameters]
    random = [row.part for row in frozen if row.fresh == row.parameters]
    if random:
        yield Finding(
            PARTS_CHECK,
            "error",
            f"new and frozen: {name_some(random)} stays as random as it is",
            f"take {name_some(random)} out of model.freeze and training.frozen",
        )
    if pretrained:
        yield Finding(
            PARTS_CHECK,
            "warning",
            f"frozen with new weights inside: {name_some(pretrained)}, of which the checkpoint does not hold all",
            "are these weights used? Take the part out of model.freeze, or use the checkpoint of another class",
        )
