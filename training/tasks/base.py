"""The base class of tasks, with everything that recipe, collator, Trainer and command line need of a task."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from huggingface_hub.dataclasses import strict

from ...configuration.modalities import MEDIA, MODALITY_TABLE
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.inputs import count_row_tokens
from ..data.labels import LabelSpec
from ..data.loading import DataSplits
from ..data.media import Row, find_columns
from ..data.row_encoder import RowEncoder
from ..data.tokenizer import TARGET_TEMPLATE
from ..metrics.base import StreamedMetrics
from ..metrics.classification import Metrics
from ..metrics.generation import score_texts
from ..metrics.per_row import RowValues, collect_text_scores
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe, build_section

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback

Scores = dict[str, dict[str, float]]
TEXT_ROLES = MODALITY_TABLE["text"].columns
IMAGE_ROLES = MODALITY_TABLE["image"].columns
MEDIA_ROLES = tuple(column for modality in MEDIA for column in MODALITY_TABLE[modality].columns)


class BaselinePredictions(NamedTuple):
    """texts: for each baseline, by name, its text for every row; references: the right texts of every row."""

    texts: dict[str, list[str]]
    references: list[list[str]]


@strict
@dataclass
class Settings:
    """The `settings` of a recipe; each task with settings has a subclass with its fields."""


class Task:
    """A task: the columns it uses, how it builds and measures batches, and how it predicts.

    Attributes:
        name: of the task in a recipe.
        model_class, auto_class: the model class that is trained, and the auto class of transformers that loads it.
        roles: the columns that the task can use.
        target_columns: the columns among them that a model predicts.
        reference_column: the column, as prepared, of the texts that a generated one is compared with; None: no task of
            texts.
        needed: groups of columns; training data must have one column of each group.
        metrics: the default metrics, for a recipe that names none.
        settings: the class of a recipe's `settings`.
        prompt_columns: the column that each option of `plait predict` fills.
        decoder_template: how a tokenizer that is trained for a decoder wraps texts.
        chunk_name: the name of the examples that `prepare` builds from rows, if their number differs ("windows").
        needs_labels: the data have a label column, described by a LabelSpec.
        generates: the model generates text.
        has_row_scores: the metrics are SupportsRowScores.
        can_cache_text: cached outputs of a frozen text tower can replace the text.
    """

    name: ClassVar[str]
    model_class: ClassVar[type[PlaitPreTrainedModel]]
    auto_class: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    target_columns: ClassVar[tuple[str, ...]] = ()
    reference_column: ClassVar[str | None] = None
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ()
    metrics: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[type[Settings]] = Settings
    prompt_columns: ClassVar[dict[str, str]] = {"text": "text", "image": "image"}
    decoder_template: ClassVar[str] = TARGET_TEMPLATE
    chunk_name: ClassVar[str] = "examples"
    needs_labels: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    has_row_scores: ClassVar[bool] = False
    can_cache_text: ClassVar[bool] = True

    def check_recipe(self, recipe: Recipe) -> None:
        """Raises RecipeError for settings that this task does not have, or `generation` if it generates nothing."""
        self.build_settings(recipe.settings)
        if recipe.generation and not self.generates:
            raise RecipeError(f"generation: the task {self.name} generates nothing: leave generation out")

    def build_settings(self, given: Mapping[str, Any]) -> Any:
        """Builds this task's settings from those of a recipe, with defaults for the others.

        Raises RecipeError for an unknown key or a value of the wrong type.
        """
        return build_section(self.settings, dict(given), "settings")

    def check_columns(self, names: Sequence[str], split: str, needs_targets: bool = True) -> None:
        """Raises RecipeError if a column that this task needs is missing; target columns only if `needs_targets`."""
        present = {name.partition(".")[0] for name in names}
        for group in self.needed:
            if not set(group) & present and (needs_targets or not set(group) & set(self.target_columns)):
                raise RecipeError(
                    f"data.columns: the task {self.name} needs a column for {' or '.join(group)}, but {split!r} has "
                    f"{', '.join(names)}: map a column of the data to it"
                )

    def check_inputs(self, names: Sequence[str], model: PlaitPreTrainedModel) -> None:
        """Raises RecipeError for a column of a modality that the model has no tower for, before training begins."""
        for modality in MODALITY_TABLE:
            columns = find_columns(names, modality)
            if columns and modality not in model.config.encoders:
                towers = ", ".join(model.config.encoders) or "none"
                raise RecipeError(
                    f"data.columns: nothing reads {columns[0]}, as the model has no {modality} tower (only {towers}): "
                    f"add model.{modality}, or name in data.columns the columns to read, without {columns[0]}"
                )

    def check_model(self, model: PlaitPreTrainedModel, processor: PlaitProcessor) -> None:
        """Raises RecipeError for a model that this task cannot train, before training begins."""
        text, tokenizer = model.config.text_config, processor.find_part("tokenizer")
        if text is not None and tokenizer is not None:
            check_vocabulary("model.text", text.vocab_size, len(tokenizer))
        if self.generates:
            check_decoder_processor(model, processor)

    def is_cacheable(self, modality: str, settings: Any) -> bool:
        """Returns whether cached outputs of the modality's frozen tower can replace its inputs."""
        return self.can_cache_text or modality != "text"

    def build_model_fields(self, recipe: Recipe) -> dict[str, Any]:
        """Returns the fields of the model's config that follow from the recipe's settings."""
        return {}

    def build_callbacks(self, recipe: Recipe, model: PlaitPreTrainedModel) -> "list[TrainerCallback]":
        """Builds the callbacks that this task adds to the Trainer."""
        return []

    def check_training(self, data: "Dataset", args: PlaitTrainingArguments, recipe: Recipe) -> None:
        """Raises RecipeError for training data that the batches of these arguments cannot train on."""

    def finish_processor(self, processor: PlaitProcessor, recipe: Recipe) -> None:
        """Adds to a composed processor what this task needs, such as a chat template."""

    def collect_tokenizer_texts(self, data: "Dataset", part: str) -> Iterable[str | None]:
        """Returns the texts on which a new tokenizer of this part ("text" or "decoder") is trained."""
        names = [name for name in TEXT_ROLES if part == "text" and name in data.column_names]
        return (text for name in names for text in data[name])

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Prepares a split for this task's collator; the number of rows may change.

        Raises RecipeError for rows that the task cannot use.
        """
        return data

    def count_tokens(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        """Counts the tokens of each row, by which rows of similar length are batched."""
        return count_row_tokens(collator.processor, data, collator.max_length)

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds the keyword arguments of the model from a batch of rows."""
        raise NotImplementedError

    def sample_rows(self, collator: RowEncoder, rows: Sequence[Row]) -> Sequence[Row]:
        """Returns the rows for training in this epoch, with random choices made (one of several targets)."""
        return rows

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds a batch for this task's StreamedMetrics: the model's `inputs`, and the references of its predictions.

        A task whose metrics are `Metrics` does not need it: these are evaluated on `build_batch`.
        """
        raise NotImplementedError

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> Metrics | StreamedMetrics:
        """Builds the metrics by their names, or without names the default metrics."""
        raise NotImplementedError

    def baseline_predictions(self, data: DataSplits, split: "Dataset") -> BaselinePredictions:
        """Returns the texts of baselines without a model for each row of the split, and the references."""
        return BaselinePredictions({}, [])

    def measure_baselines(self, metrics: Any, data: DataSplits, split: "Dataset") -> Scores:
        """Computes the metrics of baselines without a model: `{baseline: {metric: value}}`."""
        texts, references = self.baseline_predictions(data, split)
        return {name: score_texts(metrics.metric_names, given, references).compute() for name, given in texts.items()}

    def score_baseline_rows(self, metrics: Any, data: DataSplits, split: "Dataset") -> Mapping[str, RowValues]:
        """Computes the per-row scores of the same baselines, by name."""
        texts, references = self.baseline_predictions(data, split)
        return {
            name: collect_text_scores(score_texts(metrics.metric_names, given, references))
            for name, given in texts.items()
        }

    def collect_row_groups(self, split: "Dataset") -> "Sequence[Hashable] | None":
        """Returns the group of each row of the split, such as its context; rows of a group are resampled together for
        intervals. None: every row by itself."""
        return None

    def collect_score_groups(self, metrics: Any, split: "Dataset") -> "Sequence[Hashable] | None":
        """Returns the group of each row of the per-row scores that `metrics` gives for a split: those of its rows."""
        return self.collect_row_groups(split)

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields a prediction for each row, as `plait predict` prints it."""
        raise NotImplementedError

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns the Hub's name of this task for a model of these modalities."""
        raise NotImplementedError


def check_vocabulary(part: str, size: int, tokens: int) -> None:
    """Raises RecipeError if a tokenizer has more tokens than the vocabulary of its part of the model."""
    if tokens > size:
        raise RecipeError(
            f"{part} has a vocabulary of {size}, but its tokenizer has {tokens} tokens: use the tokenizer of the same "
            f"checkpoint, or raise {part}.config.vocab_size"
        )


def check_decoder_processor(model: PlaitPreTrainedModel, processor: PlaitProcessor) -> None:
    """Raises RecipeError for a decoder that cannot be trained with this processor."""
    config = model.config.get_text_config()
    check_vocabulary("model.decoder", config.vocab_size, len(processor.target_tokenizer))
    for name in ("pad_token_id", "eos_token_id"):
        if getattr(model.config, name) is None:
            raise RecipeError(f"model.decoder has no {name}: give it as model.options.{name}")
    limit, new = config.max_position_embeddings, model.generation_config.max_new_tokens
    if config.position_type != "none" and new is not None and new > limit:
        raise RecipeError(f"generation.max_new_tokens is {new}, but the decoder has {limit} positions: lower it")


def move_to_device(inputs: Mapping[str, Any], model: PlaitPreTrainedModel) -> dict[str, Any]:
    """Moves tensors, also nested ones, to the device of the model."""
    return {
        name: move_to_device(value, model) if isinstance(value, Mapping) else value.to(model.device)
        for name, value in inputs.items()
    }
