"""Finds, reads, overrides, compares and saves recipe files."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ...configuration.messages import to_one_line
from ..storage.atomic import write_text
from ..storage.secret_values import HIDDEN, drop_secrets, is_secret_key
from .errors import RecipeError
from .schema import Recipe

VERSION_KEY = "plait_version"
MAX_VALUES, MAX_DEPTH = 20_000, 50  # of a recipe


class RecipeLoader(yaml.SafeLoader):
    """A safe loader that follows YAML 1.2: 1e-4 is a number, and no, yes, on and off are strings."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)$"), list("-+0123456789.")
)


def find_recipe(path: str | Path) -> Path:
    """Returns the file of a recipe: the path itself, or the recipe of this name that comes with plait.

    Raises RecipeError if there is neither.
    """
    bundled = find_shipped_folder()
    for candidate in (Path(path), bundled / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(file.stem for file in bundled.glob("*.yaml")))
    raise RecipeError(f"no recipe {path}: pass a file, or the name of a recipe that comes with plait ({names})")


def find_shipped_folder() -> Path:
    """Returns the folder of the recipes that come with plait."""
    return Path(str(files("plait.training.recipes")))


def is_shipped(file: Path) -> bool:
    """Returns whether a recipe file is one of those that come with plait."""
    return file.resolve().parent == find_shipped_folder().resolve()


def parse_yaml(text: str) -> Any:
    """Returns the values of a yaml text.

    Raises YAMLError for invalid yaml, and ValueError for a value that Python does not read, or a text that is deeper
    nested or, by its aliases, larger than a recipe.
    """
    check_yaml_size(text)
    try:
        return yaml.load(text, RecipeLoader)
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:  # of a tag whose value is no such value
        raise ValueError(f"a value is not of its tag's kind ({error})") from error


def check_yaml_size(text: str) -> None:
    """Raises ValueError for a text that is nested too deep, or has too many values once its aliases are replaced by
    what they stand for ("billion laughs"); nothing is built yet."""
    sizes: dict[str, int] = {}  # of what an anchor stands for
    opened: list[tuple[str | None, int]] = []  # for each open collection its anchor, and the number of values before it
    count = 0
    for event in yaml.parse(text, RecipeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes |= {} if anchor is None else {anchor: count - before}
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise ValueError(f"the alias *{event.anchor} stands inside what it stands for")
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.NodeEvent):
            count += 1
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, count - 1))
        if count > MAX_VALUES or len(opened) > MAX_DEPTH:
            raise ValueError(
                f"it has more than {MAX_VALUES} values (with what its aliases stand for), or is nested deeper than "
                f"{MAX_DEPTH} levels: a recipe is smaller"
            )


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a yaml file with keys and values; raises RecipeError for any other content."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        raise RecipeError(f"{path} is not valid yaml: {to_one_line(error)}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} has no keys: a recipe is a mapping of keys to values")
    return content


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Parses `--training.learning_rate 1e-4` or `--seed=3` into `{dotted key: value}`; values are read as yaml.

    Raises RecipeError for an argument of another form.
    """
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise RecipeError(f"unexpected argument {flag!r}: write an override as --key value")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not rest:
                raise RecipeError(f"--{key} has no value: this command has no such flag, and overrides are --key value")
            text = rest.pop(0)
        try:
            found[key.replace("-", "_")] = parse_yaml(text)
        except (yaml.YAMLError, ValueError) as error:
            shown = HIDDEN if is_secret_key(key) else repr(text if len(text) < 200 else f"{text[:200]}...")
            raise RecipeError(f"--{key}: {shown} is not valid yaml") from error
    return found


def set_dotted(content: dict[str, Any], key: str, value: Any) -> None:
    """Sets `content["a"]["b"]` for the key `a.b`, replacing a parent that is not a mapping."""
    *parents, last = key.split(".")
    if len(parents) > MAX_DEPTH:
        raise RecipeError(f"the key {key[:40]}... is {len(parents)} levels deep, more than {MAX_DEPTH}: correct it")
    for parent in parents:
        if not isinstance(content.get(parent), dict):
            content[parent] = {}
        content = content[parent]
    content[last] = value


def save_recipe(recipe: Recipe, path: Path, version: str) -> None:
    """Writes the resolved recipe with the version of plait, a key that identifies the folder as a run folder; secrets
    such as training.hub_token are left out."""
    content = {VERSION_KEY: version, **drop_secrets(asdict(recipe))}
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def find_differences(old: Recipe, new: Recipe, ignored: Collection[str] = ()) -> list[str]:
    """Returns one line per key in which two recipes differ, except for the ignored keys and secrets."""
    old_values, new_values = dict(_flatten(asdict(old))), dict(_flatten(asdict(new)))
    return [
        f"{key}: {old_values.get(key)!r} there, {new_values.get(key)!r} here"
        for key in sorted({*old_values, *new_values})
        if key not in ignored and not is_secret_key(key) and old_values.get(key) != new_values.get(key)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
