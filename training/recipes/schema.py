"""A training run as data: a yaml file, `--dotted.key value` overrides, and errors that name the nearest valid key."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ...configuration.messages import to_one_line
from .errors import RecipeError, check_keys

SPLITS = ("train", "validation", "test")


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


SECTIONS = {"model": ModelRecipe, "data": DataRecipe, "tokenizer": TokenizerRecipe, "compare": CompareRecipe}


def parse_recipe(content: Mapping[str, Any]) -> Recipe:
    """A recipe from plain keys and values. Whether it can be run is checked by `plait.training.runs.recipe`.

    Raises:
        RecipeError: an unknown key, with the nearest, or a value of the wrong kind.
    """
    values = {key: value for key, value in content.items() if value is not None}
    check_keys(values, _list_field_names(Recipe), "recipe")
    for name, kind in SECTIONS.items():
        if name in values:
            values[name] = build_section(kind, values[name], name)
    return build_section(Recipe, values, "recipe")


def build_section(kind: type, values: Any, where: str) -> Any:
    """A checked dataclass from plain keys and values.

    Raises:
        RecipeError: an unknown key, with the nearest, or a value of the wrong kind.
    """
    if not isinstance(values, dict):
        raise RecipeError(f"{where} is {values!r}: expected keys and values")
    check_keys(values, _list_field_names(kind), where)
    try:
        return kind(**values)
    except StrictDataclassError as error:
        raise RecipeError(f"{where}: {to_one_line(error)}") from error


def _list_field_names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]
