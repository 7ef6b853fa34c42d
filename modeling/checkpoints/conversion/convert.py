"""Converts a checkpoint's names on disk to ours and, with the same table, exactly back.

A family file exports `FAMILIES: tuple[Family, ...]`. Its tables map a module or a full parameter name of the
checkpoint, with `{}` for numbers, to ours; rows are tried in order, full names before modules. Our names are those
inside the tower, and those of `HEAD_MODULES` in the task class. A row with None is a head that plait does not have.

Conversion is strict both ways: a name that no row, head or `ignored` pattern knows is an error, and so is a weight of
ours that has no place in the checkpoint's format.
"""

import re
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedConfig

from .family import PARAMETER_NAMES, Family, _build_rule, _collect_rules, _compile_pattern, format_names
from .rules import Alias, NameTable, OptionalRule, Rule, Value

PARAMETER_NAMES |= {"gamma": "weight", "beta": "bias"}


class RuleMatch(NamedTuple):
    """How one tensor is converted: its name on disk, our names, and the rule between them."""

    theirs: str
    ours: tuple[str, ...]
    rule: Rule


class CheckpointFormat(NamedTuple):
    """The format of one checkpoint: its family, our config of its tower (of an encoder-decoder, the encoder's), and the
    key of its class in the family's heads (None: a tower without head)."""

    family: Family
    config: PreTrainedConfig
    task: str | None = None

    @property
    def head(self) -> NameTable:
        """The table of the names of the head, empty without one."""
        return {} if self.task is None else self.family.heads[self.task]

    def plan_reading(self, names: Iterable[str]) -> list[RuleMatch]:
        """Returns how each tensor of a file is read; raises ValueError for names that the family does not know."""
        others = [table for task, table in self.family.heads.items() if task != self.task]
        rows = [row for table in (self.head, self.family.resolve_table(self.config), *others) for row in table.items()]
        moves, unknown = [], []
        for name in names:
            bare = self.family.strip_prefix(name)
            if found := _match(rows, bare):
                value, numbers, parameter = found
                if value is not None:
                    rule = _build_rule(value)
                    moves.append(RuleMatch(name, _fill_templates(rule.targets, numbers, parameter), rule))
            elif not any(re.fullmatch(pattern, bare) for pattern in self.family.ignored):
                unknown.append(name)
        if unknown:
            raise ValueError(
                f"the family {self.config.family!r} does not know {format_names(unknown)}: is model_type right?"
            )
        return moves

    def plan_writing(self, names: Iterable[str]) -> list[RuleMatch]:
        """Returns how our tensors are written, singly or fused, and to aliases too; leaves out unknown names."""
        table = self.family.resolve_table(self.config)
        rows = [
            (rule.targets[0], (theirs, rule)) for theirs, rule in [*_collect_rules(self.head), *_collect_rules(table)]
        ]
        first = [row for row in rows if not isinstance(row[1][1], Alias)]
        second = [row for row in rows if isinstance(row[1][1], Alias)]
        prefix = self.family.prefixes[0] if self.task is not None and self.family.prefixes else ""
        moves = []
        for name in names:
            for found in filter(None, (_match(first, name), _match(second, name))):
                (template, rule), numbers, parameter = found
                (theirs,) = _fill_templates((template,), numbers, parameter)
                place = prefix + theirs if template in table else theirs
                moves.append(RuleMatch(place, _fill_templates(rule.targets, numbers, parameter), rule))
        return moves


def convert(tensors: Mapping[str, Tensor], layout: CheckpointFormat) -> dict[str, Tensor]:
    """Returns a file's tensors under our names, those inside the tower and those of the heads.

    Raises:
        ValueError: names that the family does not know; two tensors on disk for one of ours.
    """
    ours: dict[str, Tensor] = {}
    for move in sorted(layout.plan_reading(tensors), key=lambda move: isinstance(move.rule, Alias)):
        for name, tensor in zip(move.ours, move.rule.forward(tensors[move.theirs]), strict=True):
            if name not in ours:
                ours[name] = tensor
            elif not isinstance(move.rule, Alias):
                raise ValueError(f"{move.theirs} is a second tensor for {name}: the file may hold only one")
    return ours


def invert(ours: Mapping[str, Tensor], layout: CheckpointFormat, tied: Set[str] = frozenset()) -> dict[str, Tensor]:
    """Returns our tensors under the family's names, as its class in transformers writes them.

    tied: those of our names that share another tensor and are therefore not written.

    Raises:
        ValueError: weights of ours that the format has no name for; a head that lacks a module; a parameter that must
            be zero in the format, but is not.
    """
    zeros = {name for name in ours if layout.family.is_zero(name)}
    if changed := [name for name in zeros if ours[name].any()]:
        raise ValueError(
            f"the family {layout.config.family!r} stores these as zeros, and they are not: {format_names(changed)}"
        )
    ours = {name: tensor for name, tensor in ours.items() if name not in zeros}
    moves = layout.plan_writing(ours)
    written = {name for move in moves for name in move.ours}
    if unknown := [name for name in ours if name not in written]:
        raise ValueError(
            f"the family {layout.config.family!r} has no name for {format_names(unknown)}: use save_pretrained instead"
        )
    rules = [rule for _, rule in _collect_rules(layout.head) if not isinstance(rule, OptionalRule)]
    needed = [target for rule in rules for target in rule.targets]
    if missing := [target for target in needed if not any(f"{name}.".startswith(f"{target}.") for name in written)]:
        raise ValueError(f"a {layout.task} of the family {layout.config.family!r} needs {format_names(missing)}")
    aliases = {name for move in moves if isinstance(move.rule, Alias) for name in move.ours}
    left_out = tied | aliases if tied else frozenset()
    return {
        move.theirs: move.rule.backward(*(ours[name] for name in move.ours))
        for move in moves
        if isinstance(move.rule, Alias) or left_out.isdisjoint(move.ours)
    }


def _match(rows: Iterable[tuple[str, Value]], name: str) -> tuple[Value, list[str], str] | None:
    """Returns the value of the first row that matches, the numbers in the name, and the module's parameter, else ""."""
    rows = list(rows)
    for module in (False, True):
        for template, value in rows:
            if match := _compile_pattern(template, module).fullmatch(name):
                *numbers, parameter = match.groups()
                return value, numbers, parameter
    return None


def _fill_templates(templates: Iterable[str], numbers: list[str], parameter: str) -> tuple[str, ...]:
    """Returns full names, with numbers and parameter filled into the templates."""
    ending = f".{PARAMETER_NAMES[parameter]}" if parameter else ""
    return tuple(template.format(*numbers) + ending for template in templates)
