"""The defaults that saved folders, recipes and calls rely on: `python tests/compatibility/defaults.py` writes them.

A config saves only what differs from its defaults, a recipe only what was asked for, and a call says even less: another
default would silently change what each of them means.
"""

import dataclasses
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import PreTrainedConfig, TrainingArguments

import plait
import plait.configuration
import plait.modeling
import plait.processing
import plait.training
from plait.training.recipes import schema

FILE = Path(__file__).with_name("defaults.json")
MODULES = (plait, plait.configuration, plait.modeling, plait.processing, plait.training)


def collect_defaults() -> dict[str, dict[str, str]]:
    """Returns the repr of every default, by class or function and name."""
    found = {"Recipe": collect_signature(schema.Recipe)}
    for recipe in vars(schema).values():
        if dataclasses.is_dataclass(recipe):
            found[recipe.__name__] = collect_fields(recipe)
    for module in MODULES:
        for name in module.__all__:
            found |= collect_public(name, getattr(module, name), module)
    return {name: dict(sorted(values.items())) for name, values in sorted(found.items()) if values}


def collect_public(name: str, value: Any, module: ModuleType) -> dict[str, dict[str, str]]:
    if inspect.isclass(value) and issubclass(value, PreTrainedConfig):
        own, theirs = value(), PreTrainedConfig()
        return {name: {key: describe(getattr(own, key)) for key in collect_own_fields(value, theirs)}}
    if inspect.isclass(value) and issubclass(value, TrainingArguments):
        inherited = collect_fields(TrainingArguments)
        return {name: {key: own for key, own in collect_fields(value).items() if inherited.get(key) != own}}
    if inspect.isclass(value):
        methods = {f"{name}.{key}": each for key, each in vars(value).items() if not key.startswith("_")}
        functions = {key: getattr(each, "__func__", each) for key, each in methods.items()}
        return {key: collect_signature(each) for key, each in functions.items() if inspect.isfunction(each)}
    return {name: collect_signature(value)} if inspect.isfunction(value) else {}


def describe(value: Any) -> str:
    """Returns the repr of a default; of a config that of its own fields, whatever the version of transformers."""
    if not isinstance(value, PreTrainedConfig):
        return repr(value)
    fields = collect_own_fields(type(value), PreTrainedConfig())
    return f"{type(value).__name__}({', '.join(f'{name}={getattr(value, name)!r}' for name in sorted(fields))})"


def collect_own_fields(config: type[PreTrainedConfig], theirs: PreTrainedConfig) -> list[str]:
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    return [name for name in names if not hasattr(theirs, name)]


def collect_fields(value: Any) -> dict[str, str]:
    defaults = {field.name: field.default_factory for field in dataclasses.fields(value)}
    made = {name: make() for name, make in defaults.items() if make is not dataclasses.MISSING}
    plain = {field.name: field.default for field in dataclasses.fields(value)}
    return {name: repr(own) for name, own in (plain | made).items() if own is not dataclasses.MISSING}


def collect_signature(value: Any) -> dict[str, str]:
    parameters = inspect.signature(value).parameters.values()
    return {each.name: repr(each.default) for each in parameters if each.default is not each.empty}


if __name__ == "__main__":
    FILE.write_text(json.dumps(collect_defaults(), indent=1) + "\n")
