"""The description of a family of checkpoints: its configs, tables and heads."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

from .rules import NameTable, Rule

HEAD_MODULES = frozenset({"classifier", "distillation_classifier", "lm_head", "lm_transform", "mlm_head", "qa_outputs"})
# the names of a module's tensors, on disk and ours; conversion adds TensorFlow's, which old files use for norms
PARAMETER_NAMES = {name: name for name in "weight bias running_mean running_var num_batches_tracked".split()}


class TensorNames(Set[str]):
    """The names in a file, without the task prefix, and the shapes of their tensors (`shapes`)."""

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
    """The description of a family of checkpoints: data, and a function from its config to ours.

    model_types: the model types in transformers that this describes. config_class: our config of the tower.
    config: a function from transformers' config and the names on disk (without the task prefix) to the fields of our
    config; raises ValueError, with key and value, for a setting that our transformer does not support. table: the
    tower's names, or a function from our config to them. heads: the head's names by the end of the name of
    transformers' class ("ForMaskedLM"). prefixes: optional task prefixes on disk; the first is written. ignored:
    regular expressions of names (without prefix) that hold nothing to load. recognises: a function that says whether a
    config.json without a model type is of this family.

    An encoder-decoder has two components in one file: `config` and `config_class` are the encoder's, `decoder` returns
    the fields of the decoder's config, and our names in the tables begin with "encoder." or "decoder.".
    zeros: our parameters (`{}` for a number) that the format has no place for and that have no effect while they are
    zero. generation: a function from a checkpoint's generation config to the options that transformers' class adds when
    it generates.
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
        """Whether one of the family's classes generates text."""
        return any("lm_head" in find_head_modules(table) for table in self.heads.values())

    def find_prefix(self, component: str) -> str:
        """Returns the prefix of our names in this component, a modality or "decoder"."""
        return "" if self.decoder is None else "decoder." if component == "decoder" else "encoder."

    def is_zero(self, name: str) -> bool:
        """Returns whether the format has no place for this parameter of ours because it is zero."""
        return any(_compile_pattern(template, False).fullmatch(name) for template in self.zeros)

    def resolve_table(self, config: PreTrainedConfig) -> NameTable:
        """Returns the table of names of a tower with this config."""
        return self.table(config) if callable(self.table) else self.table

    def strip_prefix(self, name: str) -> str:
        """Returns a name on disk without the task prefix."""
        return next((name.removeprefix(prefix) for prefix in self.prefixes if name.startswith(prefix)), name)

    def collect_names(self, tensors: Mapping[str, Tensor]) -> TensorNames:
        """Returns the names in a file, without the task prefix, and the shapes of their tensors."""
        return TensorNames({self.strip_prefix(name): tuple(tensor.shape) for name, tensor in tensors.items()})

    def find_task_by_class(self, architectures: Iterable[str]) -> str | None:
        """Returns the key in `heads` of the class that wrote a file, None for a tower without head."""
        names = tuple(architectures)
        return next((task for task in self.heads if any(name.endswith(task) for name in names)), None)

    def find_task_by_heads(self, heads: Set[str]) -> str | None:
        """Returns the key in `heads` of the class with exactly these of the `HEAD_MODULES`, None without heads.

        Raises ValueError if the family has no such class.
        """
        if not heads:
            return None
        for task, table in self.heads.items():
            if heads == find_head_modules(table):
                return task
        raise ValueError(
            f"the family {self.model_types[0]!r} has no class with the heads {format_names(heads)}: "
            "use save_pretrained instead"
        )


def find_head_modules(table: NameTable) -> Set[str]:
    """Returns the modules of our task class that a head's table loads weights into."""
    return HEAD_MODULES & {find_top_module(target) for _, rule in _collect_rules(table) for target in rule.targets}


def move_transform(head: NameTable) -> NameTable:
    """Returns the table of a decoder's head, whose transform is `lm_transform`, from that of the masked-LM head."""
    moved = {"mlm_head.dense": "lm_transform.dense", "mlm_head.norm": "lm_transform.norm"}
    return {name: moved.get(rule, rule) if isinstance(rule, str) else rule for name, rule in head.items()}


def expect(settings: Mapping[str, Any], **supported: Any) -> None:
    """Raises ValueError, with key and value, if a checkpoint's config has a value other than the supported one."""
    for key, value in supported.items():
        if settings.get(key, value) != value:
            raise ValueError(f"{key} = {settings[key]!r} is not supported, only {value!r} is")


def find_top_module(name: str) -> str:
    """Returns the first part of a parameter's path."""
    return name.split(".", 1)[0]


def format_names(names: Iterable[str], most: int = 8) -> str:
    """Returns names for an error message: the first `most`, sorted, and the number of the others."""
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
