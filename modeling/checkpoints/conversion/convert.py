"""The conversion engine: a checkpoint's names on disk to ours and, from the same table, exactly back.

A family file exports `FAMILIES: tuple[Family, ...]`. Its tables map a module or a full parameter name of the
checkpoint, `{}` standing for numbers, to ours; rows are tried in order, full names before modules. Ours are the names
inside the tower, and those of `HEAD_MODULES` in the task class. A row with None is a head that has no place here.

The engine is strict both ways: a name that no row, head or `ignored` pattern knows is an error, and so is a weight of
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
    """One tensor on its way: its name on disk, ours, and the rule between them."""

    theirs: str
    ours: tuple[str, ...]
    rule: Rule


class CheckpointFormat(NamedTuple):
    """How one checkpoint names its tensors: its family, our config of its tower (of its encoder, where there are two
    strands), and the key of its class in the family's heads (None: a tower alone)."""

    family: Family
    config: PreTrainedConfig
    task: str | None = None

    @property
    def head(self) -> NameTable:
        return {} if self.task is None else self.family.heads[self.task]

    def plan_reading(self, names: Iterable[str]) -> list[RuleMatch]:
        """Where every tensor of a file goes. Raises ValueError with the names that the family does not know."""
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
            raise ValueError(f"the family {self.config.family!r} does not know {format_names(unknown)}")
        return moves

    def plan_writing(self, names: Iterable[str]) -> list[RuleMatch]:
        """Where tensors of ours, or fused groups of them, go (to an alias as well); unknown names are left out."""
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
    """A file's tensors under our names: those inside the tower, and the heads'.

    Raises:
        ValueError: names that the family does not know; two tensors for one of ours.
    """
    ours: dict[str, Tensor] = {}
    for move in sorted(layout.plan_reading(tensors), key=lambda move: isinstance(move.rule, Alias)):
        for name, tensor in zip(move.ours, move.rule.forward(tensors[move.theirs]), strict=True):
            if name not in ours:
                ours[name] = tensor
            elif not isinstance(move.rule, Alias):
                raise ValueError(f"{move.theirs} is a second tensor for {name}")
    return ours


def invert(ours: Mapping[str, Tensor], layout: CheckpointFormat, tied: Set[str] = frozenset()) -> dict[str, Tensor]:
    """Our tensors under the family's own names, as its class writes them.

    tied: names of ours that are the same tensor as another one, and so are not written.

    Raises:
        ValueError: weights of ours that the format has no name for; a head of which a module is missing; a parameter
            that is no longer zero.
    """
    zeros = {name for name in ours if layout.family.is_zero(name)}
    if changed := [name for name in zeros if ours[name].any()]:
        raise ValueError(
            f"the family {layout.config.family!r} has these as zeros, and they are not: {format_names(changed)}"
        )
    ours = {name: tensor for name, tensor in ours.items() if name not in zeros}
    moves = layout.plan_writing(ours)
    written = {name for move in moves for name in move.ours}
    if unknown := [name for name in ours if name not in written]:
        raise ValueError(f"the family {layout.config.family!r} has no name for {format_names(unknown)}")
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
    """The first row that knows the name: its value, the numbers in the name, and the parameter of the module if any."""
    rows = list(rows)
    for module in (False, True):
        for template, value in rows:
            if match := _compile_pattern(template, module).fullmatch(name):
                *numbers, parameter = match.groups()
                return value, numbers, parameter
    return None


def _fill_templates(templates: Iterable[str], numbers: list[str], parameter: str) -> tuple[str, ...]:
    """Full names from templates."""
    ending = f".{PARAMETER_NAMES[parameter]}" if parameter else ""
    return tuple(template.format(*numbers) + ending for template in templates)
