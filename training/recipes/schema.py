"""The keys of a recipe: a training run described in a yaml file, with `--dotted.key value` overrides."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ...configuration.messages import to_one_line
from .errors import RecipeError, check_keys
from .reward import RewardRecipe

SPLITS = ("train", "validation", "test")


@strict
@dataclass
class ModelRecipe:
    """The model: either composed of towers, as by `compose`, or loaded with `from_pretrained`.

    from_pretrained: folder or Hub id of a saved plait model, or of a checkpoint of a known family.
    text, image, audio, video: a tower for each modality: a Hub id, a folder, `package:NAME/FOLDER` (a folder inside an
        installed Python package), or `{config: {...}}` for a newly initialized tower, with the fields of its config
        class (PlaitTextConfig, PlaitVisionConfig, ...; `model_type` chooses another class).
    decoder: the text model that generates, given like a tower; a new one has the fields of PlaitDecoderConfig.
    decoder_config: fields to change in the decoder's config.
    fusion, query, connector, fusion_config: the fusion strategy, the modality that cross-attends to the others, the
        module between tower and fusion, and the fields of the fusion's config, as in `compose`. The fusion "inline"
        puts an image's tokens into the decoder's text (LLaVA).
    image_token: with "inline", what stands for an image in a text (default "<image>"); a tokenizer without it gets it.
    freeze: parts that are not trained (text, image, decoder, ...). If these are all the pretrained parts, the default
        of training.learning_rate is 1e-3, not 5e-5.
    quantize: the kind of the weights of parts, as in `plait.quantize`: `{decoder: int4, text: int8}`. In training these
        parts are frozen (model.freeze) or get adapters (lora). In evaluate and predict the loaded model is quantized.
    options: further arguments of `compose` or `from_pretrained`, such as fields of the model's config.
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
    image_token: str | None = None
    freeze: list[str] = field(default_factory=list)
    quantize: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@strict
@dataclass
class DataRecipe:
    """The data set: its source, its columns, its splits and its labels.

    source: the name of a registered source (`easy_vqa`), a file (parquet, csv, tsv, json, jsonl, txt), a folder (of
        such files named by split, or with a folder of images, audio or videos per class), `{split: file}`, or a Hub id.
    name, revision: configuration and revision of a data set on the Hub.
    columns: maps the columns that the task reads (text, image, label, target, ...) to names in the source. `image`,
        `audio` and `video` may be lists of names, each an item of its row. Texts may be lists of names too: two for
        `text` are the tokenizer's pair form (where the task reads pairs), otherwise they are joined (see templates).
    templates: how the columns of a text are joined, by column of the task: `{text: "{title}. {body}"}`, with names in
        the source in braces (default: one below the other, without the missing ones).
    splits: maps train, validation and test to names of the source's splits (null: not used).
    max_rows: the largest number of rows of every split, or `{split: rows}`; a seeded random sample is kept.
    test_fraction, validation_fraction: if the source has no such split, the fraction of the training rows that becomes
        the test split, then of the remaining ones the validation split; rows that share an image or context stay
        together.
    labels: names of the classes, in order (default: found in the training split).
    label_separator: separates the names of several labels in one text, such as ";" in "red;warm". A text of separators
        alone, or `[]`, says that none of the labels applies; an empty cell, that they are not known.
    none_label: what says, where a row may have several labels, that none of them applies, such as "none" (then no label
        has this name), or "" if an empty cell says so.
    regression: whether the labels are numbers to predict (default: if they have a decimal point).
    image_root: folder of relative paths in the columns image, audio and video (default: the folder of the file).
    on_error: what to do about rows whose image, audio or video cannot be read, or that are empty. "stop": stop
        at the first such row met in training; "check": read all rows before the first step and name those that fail;
        "skip": leave those out and count them.
    leave_out: training rows to leave out, by a column of the source and its values: `{combination: [red circle]}`, to
        test a model on what it has never seen.
    words_per_row: number of words of a row, into which the texts are joined and split (default: unchanged).
    stream: reads the training rows as a stream, shuffled within a buffer of this number of rows, which alone is in
        memory (default: all rows are loaded). `source` is then a file, a pattern such as `shards/*.tar` (parquet, csv,
        tsv, json, jsonl, txt, WebDataset) or a folder with such training files, or `{train: ..., validation: FILE}`;
        `labels` are named, and training.max_steps ends it.
    """

    source: str | dict[str, str] | None = None
    name: str | None = None
    revision: str | None = None
    columns: dict[str, str | list[str]] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str | None] = field(default_factory=dict)
    max_rows: int | dict[str, int] | None = None
    validation_fraction: float | None = None
    test_fraction: float | None = None
    labels: list[str] | None = None
    label_separator: str | None = None
    none_label: str | None = None
    regression: bool = False
    image_root: str | None = None
    on_error: str = "stop"
    leave_out: dict[str, list[Any]] = field(default_factory=dict)
    words_per_row: int | None = None
    stream: int | None = None


@strict
@dataclass
class CompareRecipe:
    """The models that `plait compare` trains, each with the settings of `training`, and how they are evaluated.

    singles: modalities to train alone (default: all), each through a connector and a joint transformer of its own, as
        in `early` fusion, so that no fusion is compared with a smaller model.
    fusions: fusion strategies, or `{name, fusion, query, connector, fusion_config}`.
    seeds: training seeds; each is used for every fold.
    folds: number of parts into which all rows of all splits are cut, with classes spread evenly; each part is tested
        once (null: train on `train`, test on `test`).
    group_by: columns; rows with an equal value in one of them stay in one fold (default: the columns that the towers
        read, and the column `group`).
    metric: the metric that decides (default: the first of the recipe's `metrics`).
    bootstrap: number of resamples of test rows (by group) and seeds for 95 % intervals.
    audit: whether to evaluate every fusion with shuffled, blank and absent modalities too.
    keep_best: whether to train the best fusion on all rows and save it.
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
    """The tokenizer of a newly initialized text tower or decoder; if both are new, they share it.

    from_pretrained: folder or Hub id of a tokenizer (if no part is new, it replaces those of the pretrained parts).
    train: options (vocab_size, lowercase, min_frequency) of a tokenizer that is trained on the training texts.
    """

    from_pretrained: str | None = None
    train: dict[str, Any] | None = None


@strict
@dataclass
class LoraRecipe:
    """Adapters of low rank beside the weights of pretrained parts, which stay as they are (LoRA, Hu et al. 2021,
    https://arxiv.org/abs/2106.09685; needs the package peft). The connectors, the fusion, new layers and the head are
    trained whole, and saved with the adapters.

    r: the rank of an adapter.
    alpha: an adapter's output is multiplied by alpha / r (default: 2 r).
    dropout: of an adapter's input, 0 to 1.
    dora: whether the magnitudes of the weights are trained too (DoRA, Liu et al. 2024,
        https://arxiv.org/abs/2402.09353).
    target: what gets adapters: parts (text, image, decoder, ...), all of whose linear layers do, or ends of the names
        of modules, such as q_proj (default: all linear layers of the pretrained parts that `model.freeze` leaves).
    merge: whether the adapters are added to the weights at the end, and a whole model is saved in their place.
    """

    r: int = 16
    alpha: float | int | None = None
    dropout: float | int = 0.0
    dora: bool = False
    target: str | list[str] | None = None
    merge: bool = False


@strict
@dataclass
class Recipe:
    """A whole training run.

    task: the name of the task (classification, generation, retrieval, ...).
    model, data, tokenizer, compare, lora, reward: see ModelRecipe, DataRecipe, TokenizerRecipe, CompareRecipe,
        LoraRecipe and RewardRecipe.
    processor: arguments of PlaitProcessor.compose, or settings of its part for `image` or `audio`, such as
        `{image: {size: {height: 160, width: 160}}}`.
    training: fields of PlaitTrainingArguments.
    metrics: names of the metrics to compute (default: the task's).
    settings: settings of the task.
    generation: fields of transformers' GenerationConfig.
    max_length: the largest number of tokens of a text; longer ones are truncated (default: the tokenizer's limit).
    seed: seed of splits, weights, shuffles and samples.
    output_dir: the run folder.
    card_modalities: the number of test rows on which the model card says what each modality adds to the answers
        (`plait.explain_modalities`; null: none).
    report: whether a finished run writes report.html with figures and examples (PLAIT_REPORT=0 in the environment
        switches all off).
    tasks: several tasks for one model: for each name a recipe with its own task, data, settings, metrics, max_length,
        generation, and `weight` of the loss; model, tokenizer, processor, training and seed are those of this recipe.
    temperature: with `tasks`, each batch is of one task, sampled with probability proportional to
        n_i^(1/temperature), where n_i is the number of its rows (1: by size; inf: all alike).
    """

    task: str = "classification"
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    tokenizer: TokenizerRecipe | None = None
    compare: CompareRecipe = field(default_factory=CompareRecipe)
    lora: LoraRecipe | None = None
    reward: RewardRecipe | None = None
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
    card_modalities: int | None = None
    report: bool = True

    # no field, and in no file: the dotted keys whose values come from a recipe that ships with plait, which give way
    shipped = frozenset[str]()


SECTIONS = {
    "model": ModelRecipe,
    "data": DataRecipe,
    "tokenizer": TokenizerRecipe,
    "compare": CompareRecipe,
    "lora": LoraRecipe,
    "reward": RewardRecipe,
}


def parse_recipe(content: Mapping[str, Any]) -> Recipe:
    """Builds a recipe from a mapping. Whether it can be run is checked by `plait.training.runs.recipe`.

    Raises:
        RecipeError: an unknown key (the message suggests the nearest valid one) or a value of a wrong type.
    """
    values = {key: value for key, value in content.items() if value is not None}
    check_keys(values, _list_field_names(Recipe), "recipe")
    if isinstance(values.get("data"), dict) and isinstance(values["data"].get("columns"), dict):
        mapped = {role: name for role, name in values["data"]["columns"].items() if name is not None}
        values["data"] = {**values["data"], "columns": mapped}
    for name, kind in SECTIONS.items():
        if name in values:
            values[name] = build_section(kind, values[name], name)
    return build_section(Recipe, values, "recipe")


def build_section(kind: type, values: Any, where: str) -> Any:
    """Builds one section's dataclass (`kind`) from a mapping; `where` names the section in errors.

    Raises:
        RecipeError: an unknown key (the message suggests the nearest valid one) or a value of a wrong type.
    """
    if not isinstance(values, dict):
        raise RecipeError(f"{where} is {values!r}: expected a mapping of keys to values")
    check_keys(values, _list_field_names(kind), where)
    try:
        return kind(**values)
    except StrictDataclassError as error:
        raise RecipeError(f"{where}: {to_one_line(error)}") from error


def _list_field_names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]
