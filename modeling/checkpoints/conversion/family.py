"""A family as data: its configs, tables and heads."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

from .rules import NameTable, Rule

HEAD_MODULES = frozenset({"classifier", "distillation_classifier", "lm_head", "mlm_head", "qa_outputs"})
# what a module's tensors are called; TensorFlow's names for those of a norm stand in old files
PARAMETER_NAMES = {name: name for name in "weight bias running_mean running_var num_batches_tracked".split()}


class TensorNames(Set[str]):
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
    config: Callable[[Any, TensorNames], dict[str, Any]]
    table: NameTable | Callable[[Any], NameTable]
    heads: Mapping[str, NameTable] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    recognises: Callable[[dict[str, Any]], bool] | None = None
    decoder: Callable[[Any, TensorNames], dict[str, Any]] | None = None
    zeros: tuple[str, ...] = ()
    generation: Callable[[GenerationConfig], dict[str, Any]] | None = None

    @property
    def generates(self) -> bool:
        """Whether one of the family's classes writes text."""
        return any("lm_head" in find_head_modules(table) for table in self.heads.values())

    def find_prefix(self, component: str) -> str:
        """What the names of ours begin with in this strand: a modality, or "decoder"."""
        return "" if self.decoder is None else "decoder." if component == "decoder" else "encoder."

    def is_zero(self, name: str) -> bool:
        """Whether the format has no place for this parameter of ours, as it is zero."""
        return any(_compile_pattern(template, False).fullmatch(name) for template in self.zeros)

    def resolve_table(self, config: PreTrainedConfig) -> NameTable:
        """The names of a tower with this config of ours."""
        return self.table(config) if callable(self.table) else self.table

    def strip_prefix(self, name: str) -> str:
        """A name on disk without the task prefix."""
        return next((name.removeprefix(prefix) for prefix in self.prefixes if name.startswith(prefix)), name)

    def collect_names(self, tensors: Mapping[str, Tensor]) -> TensorNames:
        """The names in a file and the shapes under them."""
        return TensorNames({self.strip_prefix(name): tuple(tensor.shape) for name, tensor in tensors.items()})

    def find_task_by_class(self, architectures: Iterable[str]) -> str | None:
        """The key in `heads` of the class that wrote a file, None for a tower alone."""
        names = tuple(architectures)
        return next((task for task in self.heads if any(name.endswith(task) for name in names)), None)

    def find_task_by_heads(self, heads: Set[str]) -> str | None:
        """The key in `heads` of the class that has exactly these of the `HEAD_MODULES`.

        Raises ValueError where the family has no such class.
        """
        if not heads:
            return None
        for task, table in self.heads.items():
            if heads == find_head_modules(table):
                return task
        raise ValueError(f"the family {self.model_types[0]!r} has no class with the heads {format_names(heads)}")


def find_head_modules(table: NameTable) -> Set[str]:
    """The modules of the task class that a head's table fills."""
    return HEAD_MODULES & {find_top_module(target) for _, rule in _collect_rules(table) for target in rule.targets}


def expect(settings: Mapping[str, Any], **supported: Any) -> None:
    """Raise ValueError, with key and value, where a checkpoint's config has another value than the one supported."""
    for key, value in supported.items():
        if settings.get(key, value) != value:
            raise ValueError(f"{key} = {settings[key]!r} is not supported, only {value!r} is")


def find_top_module(name: str) -> str:
    """The first part of a parameter's path."""
    return name.split(".", 1)[0]


def format_names(names: Iterable[str], most: int = 8) -> str:
    """Names for an error message: the first of them, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _collect_rules(table: NameTable) -> list[tuple[str, Rule]]:
    return [(theirs, _build_rule(value)) for theirs, value in table.items() if value is not None]


def _build_rule(value: str | Rule) -> Rule:
    return Rule(value) if isinstance(value, str) else value


@cache
def _compile_pattern(template: str, module: bool) -> re.Pattern[str]:
    parameter = rf"\.({'|'.join(PARAMETER_NAMES)})" if module else "()"
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d+)") + parameter)
