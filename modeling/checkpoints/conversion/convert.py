"""The conversion engine: a checkpoint's names on disk to ours and, from the same table, exactly back.

A family file exports `FAMILIES: tuple[Family, ...]`. Its tables map a module or a full parameter name of the
checkpoint, `{}` standing for numbers, to ours; rows are tried in order, full names before modules. Ours are the names
inside the tower, and those of `HEAD_MODULES` in the task class. A row with None is a head that has no place here.

The engine is strict both ways: a name that no row, head or `ignored` pattern knows is an error, and so is a weight of
ours that has no place in the checkpoint's format.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

Value = TypeVar("Value")

HEAD_MODULES = frozenset({"classifier", "distillation_classifier", "lm_head", "mlm_head", "qa_outputs"})

# what a module's tensors are called; TensorFlow's names for those of a norm stand in old files
PARAMETERS = {name: name for name in "weight bias running_mean running_var num_batches_tracked".split()}
PARAMETERS |= {"gamma": "weight", "beta": "bias"}


class Rule:
    """How one of their tensors becomes ours and back; this one only renames."""

    def __init__(self, *targets: str) -> None:
        self.targets = targets

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Their tensor to ours, one for each target."""
        return (tensor,)

    def backward(self, *tensors: Tensor) -> Tensor:
        """Our tensors, in the order of the targets, to theirs: bit-equal to what `forward` took."""
        return tensors[0]


class Alias(Rule):
    """Another name of a tied tensor (of several, all its targets): read where the others are missing; written where the
    others are not, or untied."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (tensor,) * len(self.targets)

    def backward(self, *tensors: Tensor) -> Tensor:
        return tensors[0].clone()  # a file holds no tensor twice


class Sometimes(Rule):
    """A module of a head that some of its settings do without."""


class Split(Rule):
    """A fused tensor: equal chunks of dimension 0, one for each target."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in tensor.chunk(len(self.targets)))

    def backward(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors)


class Transposed(Rule):
    """A weight stored as (in, out), such as GPT-2's Conv1D; a bias is left as it is."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (transposed(tensor),)

    def backward(self, *tensors: Tensor) -> Tensor:
        return transposed(tensors[0])


class TransposedSplit(Split):
    """A fused weight stored as (in, out): equal chunks of its outputs."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return super().forward(transposed(tensor))

    def backward(self, *tensors: Tensor) -> Tensor:
        return transposed(super().backward(*tensors))


class Leading(Rule):
    """Ours has `count` more leading dimensions of size 1 than theirs, or fewer where it is negative."""

    def __init__(self, target: str, count: int) -> None:
        super().__init__(target)
        self.count = count

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (leading(tensor, self.count),)

    def backward(self, *tensors: Tensor) -> Tensor:
        return leading(tensors[0], -self.count)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.T.contiguous() if tensor.ndim == 2 else tensor


def leading(tensor: Tensor, count: int) -> Tensor:
    """Put `count` dimensions of size 1 first, or take them away where it is negative."""
    if count >= 0:
        return tensor[(None,) * count]
    if tensor.shape[:-count].numel() != 1:
        raise ValueError(f"shape {tuple(tensor.shape)} does not begin with {-count} dimensions of size 1")
    return tensor.reshape(tensor.shape[-count:])


Table = dict[str, str | Rule | None]


class Names(Set[str]):
    """The names in a file, without the task prefix, and the shapes of their tensors."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@dataclass(frozen=True, eq=False)
class Family:
    """What sets one family of checkpoints apart: data, and a function from their config to ours.

    model_types: transformers' names of the family, which share all of this. config_class: the tower config of ours.
    config: their config and the names on disk (without the task prefix) to the fields of ours; raises ValueError, with
    key and value, for a setting that the core does not have. table: the tower's names, or a function from our config to
    them. heads: by the end of transformers' class name ("ForMaskedLM"), the head's names. prefixes: optional task
    prefixes on disk, the first being the one written. ignored: regular expressions of names (without prefix) that hold
    nothing to learn. recognises: whether a config.json that names no model type is of this family.

    An encoder-decoder has two strands in one file: `config` and `config_class` are the encoder's, decoder gives the
    fields of the decoder's config, and the tables' targets begin with "encoder." or "decoder.".
    zeros: parameters of ours, `{}` for a number, that the format has no place for and that change nothing while they
    are zero. generation: from a checkpoint's generation config, what else its own class does when it generates.
    """

    model_types: tuple[str, ...]
    config_class: type[PreTrainedConfig]
    config: Callable[[Any, Names], dict[str, Any]]
    table: Table | Callable[[Any], Table]
    heads: Mapping[str, Table] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    recognises: Callable[[dict[str, Any]], bool] | None = None
    decoder: Callable[[Any, Names], dict[str, Any]] | None = None
    zeros: tuple[str, ...] = ()
    generation: Callable[[GenerationConfig], dict[str, Any]] | None = None

    @property
    def generates(self) -> bool:
        """Whether one of the family's classes writes text."""
        return any("lm_head" in heads_of(table) for table in self.heads.values())

    def prefix(self, strand: str) -> str:
        """What the names of ours begin with in this strand: a modality, or "decoder"."""
        return "" if self.decoder is None else "decoder." if strand == "decoder" else "encoder."

    def is_zero(self, name: str) -> bool:
        """Whether the format has no place for this parameter of ours, as it is zero."""
        return any(_pattern(template, False).fullmatch(name) for template in self.zeros)

    def table_of(self, config: PreTrainedConfig) -> Table:
        """The names of a tower with this config of ours."""
        return self.table(config) if callable(self.table) else self.table

    def bare(self, name: str) -> str:
        """A name on disk without the task prefix."""
        return next((name.removeprefix(prefix) for prefix in self.prefixes if name.startswith(prefix)), name)

    def names(self, tensors: Mapping[str, Tensor]) -> Names:
        """The names in a file and the shapes under them."""
        return Names({self.bare(name): tuple(tensor.shape) for name, tensor in tensors.items()})

    def task_of(self, architectures: Iterable[str]) -> str | None:
        """The key in `heads` of the class that wrote a file, None for a tower alone."""
        names = tuple(architectures)
        return next((task for task in self.heads if any(name.endswith(task) for name in names)), None)

    def task_for(self, heads: Set[str]) -> str | None:
        """The key in `heads` of the class that has exactly these of the `HEAD_MODULES`.

        Raises ValueError where the family has no such class.
        """
        if not heads:
            return None
        for task, table in self.heads.items():
            if heads == heads_of(table):
                return task
        raise ValueError(f"the family {self.model_types[0]!r} has no class with the heads {listed(heads)}")


class Move(NamedTuple):
    """One tensor on its way: its name on disk, ours, and the rule between them."""

    theirs: str
    ours: tuple[str, ...]
    rule: Rule


class Format(NamedTuple):
    """How one checkpoint names its tensors: its family, our config of its tower (of its encoder, where there are two
    strands), and the key of its class in the family's heads (None: a tower alone)."""

    family: Family
    config: PreTrainedConfig
    task: str | None = None

    @property
    def head(self) -> Table:
        return {} if self.task is None else self.family.heads[self.task]

    def read(self, names: Iterable[str]) -> list[Move]:
        """Where every tensor of a file goes. Raises ValueError with the names that the family does not know."""
        others = [table for task, table in self.family.heads.items() if task != self.task]
        rows = [row for table in (self.head, self.family.table_of(self.config), *others) for row in table.items()]
        moves, unknown = [], []
        for name in names:
            bare = self.family.bare(name)
            if found := _match(rows, bare):
                value, numbers, parameter = found
                if value is not None:
                    rule = _rule(value)
                    moves.append(Move(name, _filled(rule.targets, numbers, parameter), rule))
            elif not any(re.fullmatch(pattern, bare) for pattern in self.family.ignored):
                unknown.append(name)
        if unknown:
            raise ValueError(f"the family {self.config.family!r} does not know {listed(unknown)}")
        return moves

    def write(self, names: Iterable[str]) -> list[Move]:
        """Where tensors of ours, or fused groups of them, go (to an alias as well); unknown names are left out."""
        table = self.family.table_of(self.config)
        rows = [(rule.targets[0], (theirs, rule)) for theirs, rule in [*_rules(self.head), *_rules(table)]]
        first = [row for row in rows if not isinstance(row[1][1], Alias)]
        second = [row for row in rows if isinstance(row[1][1], Alias)]
        prefix = self.family.prefixes[0] if self.task is not None and self.family.prefixes else ""
        moves = []
        for name in names:
            for found in filter(None, (_match(first, name), _match(second, name))):
                (template, rule), numbers, parameter = found
                (theirs,) = _filled((template,), numbers, parameter)
                place = prefix + theirs if template in table else theirs
                moves.append(Move(place, _filled(rule.targets, numbers, parameter), rule))
        return moves


def heads_of(table: Table) -> Set[str]:
    """The modules of the task class that a head's table fills."""
    return HEAD_MODULES & {module_of(target) for _, rule in _rules(table) for target in rule.targets}


def convert(tensors: Mapping[str, Tensor], layout: Format) -> dict[str, Tensor]:
    """A file's tensors under our names: those inside the tower, and the heads'.

    Raises:
        ValueError: names that the family does not know; two tensors for one of ours.
    """
    ours: dict[str, Tensor] = {}
    for move in sorted(layout.read(tensors), key=lambda move: isinstance(move.rule, Alias)):
        for name, tensor in zip(move.ours, move.rule.forward(tensors[move.theirs]), strict=True):
            if name not in ours:
                ours[name] = tensor
            elif not isinstance(move.rule, Alias):
                raise ValueError(f"{move.theirs} is a second tensor for {name}")
    return ours


def invert(ours: Mapping[str, Tensor], layout: Format, tied: Set[str] = frozenset()) -> dict[str, Tensor]:
    """Our tensors under the family's own names, as its class writes them.

    tied: names of ours that are the same tensor as another one, and so are not written.

    Raises:
        ValueError: weights of ours that the format has no name for; a head of which a module is missing; a parameter
            that is no longer zero.
    """
    zeros = {name for name in ours if layout.family.is_zero(name)}
    if changed := [name for name in zeros if ours[name].any()]:
        raise ValueError(f"the family {layout.config.family!r} has these as zeros, and they are not: {listed(changed)}")
    ours = {name: tensor for name, tensor in ours.items() if name not in zeros}
    moves = layout.write(ours)
    written = {name for move in moves for name in move.ours}
    if unknown := [name for name in ours if name not in written]:
        raise ValueError(f"the family {layout.config.family!r} has no name for {listed(unknown)}")
    rules = [rule for _, rule in _rules(layout.head) if not isinstance(rule, Sometimes)]
    needed = [target for rule in rules for target in rule.targets]
    if missing := [target for target in needed if not any(f"{name}.".startswith(f"{target}.") for name in written)]:
        raise ValueError(f"a {layout.task} of the family {layout.config.family!r} needs {listed(missing)}")
    aliases = {name for move in moves if isinstance(move.rule, Alias) for name in move.ours}
    left_out = tied | aliases if tied else frozenset()
    return {
        move.theirs: move.rule.backward(*(ours[name] for name in move.ours))
        for move in moves
        if isinstance(move.rule, Alias) or left_out.isdisjoint(move.ours)
    }


def expect(settings: Mapping[str, Any], **supported: Any) -> None:
    """Raise ValueError, with key and value, where a checkpoint's config has another value than the one supported."""
    for key, value in supported.items():
        if settings.get(key, value) != value:
            raise ValueError(f"{key} = {settings[key]!r} is not supported, only {value!r} is")


def module_of(name: str) -> str:
    """The first part of a parameter's path."""
    return name.split(".", 1)[0]


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for an error message: the first of them, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _rules(table: Table) -> list[tuple[str, Rule]]:
    return [(theirs, _rule(value)) for theirs, value in table.items() if value is not None]


def _rule(value: str | Rule) -> Rule:
    return Rule(value) if isinstance(value, str) else value


@cache
def _pattern(template: str, module: bool) -> re.Pattern[str]:
    parameter = rf"\.({'|'.join(PARAMETERS)})" if module else "()"
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d+)") + parameter)


def _match(rows: Iterable[tuple[str, Value]], name: str) -> tuple[Value, list[str], str] | None:
    """The first row that knows the name: its value, the numbers in the name, and the parameter of the module if any."""
    rows = list(rows)
    for module in (False, True):
        for template, value in rows:
            if match := _pattern(template, module).fullmatch(name):
                *numbers, parameter = match.groups()
                return value, numbers, parameter
    return None


def _filled(templates: Iterable[str], numbers: list[str], parameter: str) -> tuple[str, ...]:
    """Full names from templates."""
    ending = f".{PARAMETERS[parameter]}" if parameter else ""
    return tuple(template.format(*numbers) + ending for template in templates)
