"""A training run as data: a yaml file, `--dotted.key value` overrides, and errors that name the nearest valid key."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

MARK = "plait_version"
SPLITS = ("train", "validation", "test")


class RecipeError(ValueError):
    """A recipe that cannot be run; the message is one line for the user."""


@strict
@dataclass
class ModelRecipe:
    """What `compose` takes, or `from_pretrained`: a folder or Hub id of a plait (or of any known checkpoint).

    A tower is a Hub id, a folder, `package:NAME/FOLDER` (a folder inside an installed Python package), or
    `{config: {...}}` for fresh weights, with the fields of PlaitTextConfig or PlaitVisionConfig. `decoder` is likewise
    the text model that writes, with the fields of PlaitDecoderConfig; `decoder_config` changes fields of its config.
    """

    from_pretrained: str | None = None
    text: str | dict[str, Any] | None = None
    image: str | dict[str, Any] | None = None
    audio: str | dict[str, Any] | None = None
    video: str | dict[str, Any] | None = None
    decoder: str | dict[str, Any] | None = None
    decoder_config: dict[str, Any] | None = None
    fusion: str | None = None
    query: str | None = None
    connector: str = "linear"
    fusion_config: dict[str, Any] | None = None
    freeze: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


@strict
@dataclass
class DataRecipe:
    """Where the rows come from and which columns they use.

    `source`: a name of a registered source (`easy_vqa`), a file (parquet, csv, tsv, json, jsonl, txt), a folder (of
    such files named by split, or of pictures in one folder a class), `{split: file}`, or a Hub id (`name`: its
    configuration). `columns` maps the columns that the task reads (text, image, label, target, ...) to the source's
    names; `image` may be a list of columns. `splits` maps train, validation, test to the source's splits (null: none).
    `max_rows` limits every split, or `{split: rows}`, by a seeded sample. `test_fraction` of the training rows are the
    test split where there is none, `validation_fraction` of the others the validation split; rows that share a picture
    or a context stay together. `labels` fixes names and order of the classes. `on_error` says what
    becomes of rows whose picture, sound or video cannot be read: "stop" where one is met; "check" reads all of them
    before the first step and names those that cannot be; "skip" leaves these out and counts them.
    """

    source: str | dict[str, str] | None = None
    name: str | None = None
    revision: str | None = None
    columns: dict[str, str | list[str]] = field(default_factory=dict)
    splits: dict[str, str | None] = field(default_factory=dict)
    max_rows: int | dict[str, int] | None = None
    validation_fraction: float | None = None
    test_fraction: float | None = None
    labels: list[str] | None = None
    regression: bool = False
    image_root: str | None = None
    on_error: str = "stop"
    words_per_row: int | None = None


@strict
@dataclass
class CompareRecipe:
    """What `plait compare` trains, each under the budget that `training` says, and how it is measured.

    `singles`: modalities, each alone (default: all); alone means through a connector and a joint transformer of its
    own, as in `early` fusion, so that a fusion is not compared with less of a model. `fusions`: strategies, or
    `{name, fusion, query, connector, fusion_config}`. `seeds`: of the training, every one for every fold. `folds`: all
    rows of all splits are cut into so many parts, each being tested once (null: train on `train`, test on `test`);
    the classes are spread evenly. `group_by`: columns; rows with an equal value in one of them stay in one part
    (default: what the towers read, and the column `group`). `metric`: decides (default: the first of the recipe's
    `metrics`). `bootstrap`: resamples of the test rows (by group) and seeds for 95 % intervals. `audit`: measure every
    fusion on shuffled, blank and absent modalities too. `keep_best`: train the best fusion on all rows, and save it.
    """

    singles: list[str] | None = None
    fusions: list[str | dict[str, Any]] = field(default_factory=lambda: ["late", "early", "cross_attention"])
    seeds: list[int] = field(default_factory=lambda: [0])
    folds: int | None = None
    group_by: list[str] | None = None
    metric: str | None = None
    bootstrap: int = 2000
    audit: bool = True
    keep_best: bool = True


@strict
@dataclass
class TokenizerRecipe:
    """A tokenizer for a fresh text tower or decoder: `from_pretrained`, or `train` (vocab_size, lowercase,
    min_frequency) on the training texts. A fresh tower and a fresh decoder share one."""

    from_pretrained: str | None = None
    train: dict[str, Any] | None = None


@strict
@dataclass
class Recipe:
    """A whole run. `training` holds fields of PlaitTrainingArguments, `processor` what PlaitProcessor.compose takes
    (or settings of its part for `image` or `audio`, such as `{image: {size: {height: 160, width: 160}}}`), `settings`
    what the task lets one set, `generation` fields of transformers' GenerationConfig.

    With `tasks` one model learns several: by name a recipe of its own (task, data, settings, metrics, max_length,
    generation, and the `weight` of its loss), over the model, tokenizer and training of this one. Batches are of one
    task each, which is drawn with p_i proportional to n_i^(1/temperature) for n_i rows.
    """

    task: str = "classification"
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    tokenizer: TokenizerRecipe | None = None
    compare: CompareRecipe = field(default_factory=CompareRecipe)
    processor: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    temperature: float | int = 1.0
    generation: dict[str, Any] = field(default_factory=dict)
    max_length: int | None = None
    seed: int = 42
    output_dir: str | None = None


NESTED = {"model": ModelRecipe, "data": DataRecipe, "tokenizer": TokenizerRecipe, "compare": CompareRecipe}


class Loader(yaml.SafeLoader):
    """Safe yaml as version 1.2 reads it: 1e-4 is a number, and no, yes, on, off are words."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)$"), list("-+0123456789.")
)


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file, or one that comes with plait by its name, and put the overrides over it.

    Raises:
        RecipeError: no such file, not yaml, an unknown key (with the nearest), a wrong kind of value.
    """
    content = read_yaml(find_recipe(path))
    content.pop(MARK, None)
    for key, value in (overrides or {}).items():
        set_dotted(content, key, value)
    return build_recipe(content)


def find_recipe(path: str | Path) -> Path:
    """The file of a recipe: the path itself, or a recipe that comes with plait."""
    bundled = Path(str(files("plait.training").joinpath("recipes")))
    for candidate in (Path(path), bundled / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(file.stem for file in bundled.glob("*.yaml")))
    raise RecipeError(f"no recipe {path}: neither a file nor one of those that come with plait ({names})")


def read_yaml(path: Path) -> dict[str, Any]:
    """A yaml file that holds keys and values."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not yaml: {' '.join(str(error).split())}") from error
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
            found[key.replace("-", "_")] = yaml.load(text, Loader)
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


def build_recipe(content: Mapping[str, Any]) -> Recipe:
    """A checked recipe from plain keys and values."""
    values = {key: value for key, value in content.items() if value is not None}
    check_keys(values, _names(Recipe), "recipe")
    for name, kind in NESTED.items():
        if name in values:
            values[name] = build_section(kind, values[name], name)
    recipe = build_section(Recipe, values, "recipe")
    _check(recipe)
    return recipe


def save_recipe(recipe: Recipe, path: Path, version: str) -> None:
    """Write the resolved recipe; its mark tells a run folder of ours from any other folder."""
    content = {MARK: version, **asdict(recipe)}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Lines that name each key in which two recipes differ."""
    old_values, new_values = dict(_flatten(asdict(old))), dict(_flatten(asdict(new)))
    return [
        f"{key}: {old_values.get(key)!r} there, {new_values.get(key)!r} here"
        for key in sorted({*old_values, *new_values})
        if old_values.get(key) != new_values.get(key)
    ]


def check_keys(keys: Iterable[str], valid: Sequence[str], where: str) -> None:
    """Raises RecipeError: a key that is not valid, with the nearest one."""
    for key in keys:
        if key not in valid:
            raise RecipeError(f"{where} has no key {key!r}{_hint(key, valid)}")


def check_choice(where: str, value: str, valid: Iterable[str]) -> None:
    """Raises RecipeError: a value that is not among the valid ones, with the nearest one."""
    if value not in valid:
        raise RecipeError(f"{where} is {value!r}{_hint(value, list(valid))}")


def _hint(key: object, valid: Sequence[str]) -> str:
    near = get_close_matches(str(key), valid, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(valid)}"


def build_section(kind: type, values: Any, where: str) -> Any:
    """A checked dataclass from plain keys and values.

    Raises:
        RecipeError: an unknown key, with the nearest, or a value of the wrong kind.
    """
    if not isinstance(values, dict):
        raise RecipeError(f"{where} is {values!r}: expected keys and values")
    check_keys(values, _names(kind), where)
    try:
        return kind(**values)
    except StrictDataclassError as error:
        raise RecipeError(f"{where}: {' '.join(str(error).split())}") from error


def _check(recipe: Recipe) -> None:
    from ..optimization.arguments import PlaitTrainingArguments
    from ..tasks.registry import find_task

    task = find_task(recipe.task)
    if recipe.tasks:
        from .multitask import check_tasks

        check_tasks(recipe)
    else:
        task.check_recipe(recipe)
    check_keys(recipe.training, [item.name for item in fields(PlaitTrainingArguments) if item.init], "training")
    check_keys(recipe.data.splits, SPLITS, "data.splits")
    check_choice("data.on_error", recipe.data.on_error, ("stop", "check", "skip"))
    check_keys(recipe.data.columns, task.roles, "data.columns")
    for key in ("seed", "output_dir"):
        if key in recipe.training:
            raise RecipeError(f"training.{key} belongs at the top of the recipe, as {key}")
    hints = get_type_hints(PlaitTrainingArguments)
    for key, value in recipe.training.items():
        for kind, fitting in {float: (int, float), int: int, bool: bool}.items():
            if hints[key] is kind and not isinstance(value, fitting):
                raise RecipeError(f"training.{key} is {value!r}: expected a {kind.__name__}")


def _names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
