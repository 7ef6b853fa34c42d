"""Recipe files: found, read, overridden from the command line, compared and saved."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ...configuration.messages import to_one_line
from .errors import RecipeError
from .schema import Recipe

VERSION_KEY = "plait_version"


class RecipeLoader(yaml.SafeLoader):
    """Safe yaml as version 1.2 reads it: 1e-4 is a number, and no, yes, on, off are words."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)$"), list("-+0123456789.")
)


def find_recipe(path: str | Path) -> Path:
    """The file of a recipe: the path itself, or a recipe that comes with plait."""
    bundled = Path(str(files("plait.training.recipes")))
    for candidate in (Path(path), bundled / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(file.stem for file in bundled.glob("*.yaml")))
    raise RecipeError(f"no recipe {path}: neither a file nor one of those that come with plait ({names})")


def read_yaml(path: Path) -> dict[str, Any]:
    """A yaml file that holds keys and values."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), RecipeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not yaml: {to_one_line(error)}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds no keys")
    return content


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--training.learning_rate 1e-4` or `--seed=3` to `{dotted key: value}`; values are read as yaml."""
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise RecipeError(f"unexpected argument {flag!r}: an override reads --key value")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not rest:
                raise RecipeError(f"--{key} has no value")
            text = rest.pop(0)
        try:
            found[key.replace("-", "_")] = yaml.load(text, RecipeLoader)
        except yaml.YAMLError as error:
            raise RecipeError(f"--{key}: {text!r} is not yaml") from error
    return found


def set_dotted(content: dict[str, Any], key: str, value: Any) -> None:
    """Set `content["a"]["b"]` for the key `a.b`."""
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(content.get(parent), dict):
            content[parent] = {}
        content = content[parent]
    content[last] = value


def save_recipe(recipe: Recipe, path: Path, version: str) -> None:
    """Write the resolved recipe; its mark tells a run folder of ours from any other folder."""
    content = {VERSION_KEY: version, **asdict(recipe)}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def find_differences(old: Recipe, new: Recipe, ignored: Collection[str] = ()) -> list[str]:
    """Lines that name each key in which two recipes differ, but for the ignored ones."""
    old_values, new_values = dict(_flatten(asdict(old))), dict(_flatten(asdict(new)))
    return [
        f"{key}: {old_values.get(key)!r} there, {new_values.get(key)!r} here"
        for key in sorted({*old_values, *new_values})
        if key not in ignored and old_values.get(key) != new_values.get(key)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
