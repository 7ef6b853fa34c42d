"""What a task is to the recipe, the collator, the Trainer and the command line."""

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
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from ..data.tokenizer import TARGET_TEMPLATE
from ..metrics.base import StreamedMetrics
from ..metrics.classification import Metrics
from ..metrics.generation import score_texts
from ..metrics.per_row import RowScores, collect_text_scores
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
    """Texts of every row by the baseline that gives them, and the right ones."""

    texts: dict[str, list[str]]
    references: list[list[str]]


@strict
@dataclass
class Settings:
    """What a recipe's `settings` may hold: the fields of a task's own kind of this class."""


class Task:
    """A task: what it reads, how its batches are made and measured, and what it answers.

    Attributes:
        name: of the task in a recipe.
        model_class, auto_class: the model that is trained, and transformers' auto class that loads it.
        roles: the columns that the task can read.
        target_columns: those of them that a model answers.
        needed: groups of columns; training data must have one of each.
        metrics: those measured where the recipe names none.
        settings: the class of what a recipe's `settings` may hold.
        prompt_columns: the column that each option of `plait predict` gives.
        decoder_template: how a tokenizer that is trained for a decoder wraps texts.
        chunk_name: what `prepare` makes of rows where their number changes ("windows").
        needs_labels: the data have a label column, which becomes a LabelSpec.
        generates: the model generates text.
        has_row_scores: its metrics are SupportsRowScores.
        can_cache_text: a frozen text tower's outputs can take the place of the text.
    """

    name: ClassVar[str]
    model_class: ClassVar[type[PlaitPreTrainedModel]]
    auto_class: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    target_columns: ClassVar[tuple[str, ...]] = ()
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
        """Raises RecipeError for settings that this task does not have."""
        self.build_settings(recipe.settings)
        if recipe.generation and not self.generates:
            raise RecipeError(f"generation: the task {self.name} generates nothing")

    def build_settings(self, given: Mapping[str, Any]) -> Any:
        """A recipe's settings, checked, with the defaults of the rest."""
        return build_section(self.settings, dict(given), "settings")

    def check_columns(self, names: Sequence[str], split: str, needs_targets: bool = True) -> None:
        """Raises RecipeError where a column that this task needs is missing; target columns only if `needs_targets`."""
        present = {name.partition(".")[0] for name in names}
        for group in self.needed:
            if not set(group) & present and (needs_targets or not set(group) & set(self.target_columns)):
                raise RecipeError(
                    f"data.columns: the task {self.name} needs a column for {' or '.join(group)}, and {split!r} has "
                    f"{', '.join(names)}"
                )

    def check_model(self, model: PlaitPreTrainedModel, processor: PlaitProcessor) -> None:
        """Raises RecipeError for a model that this task cannot train, before any work is lost."""
        text = model.config.text_config
        if text is not None and processor.tokenizer is not None:
            check_vocabulary("model.text", text.vocab_size, len(processor.tokenizer))
        if self.generates:
            check_decoder_processor(model, processor)

    def is_cacheable(self, modality: str, settings: Any) -> bool:
        """Whether the outputs of a frozen tower can stand for its input."""
        return self.can_cache_text or modality != "text"

    def build_model_fields(self, recipe: Recipe) -> dict[str, Any]:
        """Fields of the model's config that this task's settings decide."""
        return {}

    def build_callbacks(self, recipe: Recipe, model: PlaitPreTrainedModel) -> "list[TrainerCallback]":
        """What this task does beside the steps."""
        return []

    def check_training(self, data: "Dataset", args: PlaitTrainingArguments, recipe: Recipe) -> None:
        """Raises RecipeError for training data that cannot be trained on in such batches."""

    def finish_processor(self, processor: PlaitProcessor, recipe: Recipe) -> None:
        """What this task needs of a processor beside its parts."""

    def collect_tokenizer_texts(self, data: "Dataset", part: str) -> Iterable[str | None]:
        """What a fresh tokenizer of this part ("text" or "decoder") is trained on."""
        return data["text"] if part == "text" and "text" in data.column_names else []

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """A split as this task's collator reads it."""
        return data

    def count_tokens(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        """Tokens of each row, by which rows of like length are put together."""
        return count_row_tokens(collator.processor, data, collator.max_length)

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Rows to the keyword arguments of the model."""
        raise NotImplementedError

    def sample_rows(self, collator: RowEncoder, rows: Sequence[Row]) -> Sequence[Row]:
        """Rows as they are trained on in this epoch, where they leave a choice."""
        return rows

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds what this task's StreamedMetrics measure: the model's `inputs` and what its answers are compared with.

        A task whose metrics are `Metrics` does not need it: these are evaluated on `build_batch`.
        """
        raise NotImplementedError

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> Metrics | StreamedMetrics:
        """Builds the metrics that measure a model: the named ones, or the usual ones."""
        raise NotImplementedError

    def baseline_predictions(self, data: DataSplits, split: "Dataset") -> BaselinePredictions:
        """What one would write without a model for each row that is measured."""
        return BaselinePredictions({}, [])

    def measure_baselines(self, metrics: Any, data: DataSplits, split: "Dataset") -> Scores:
        """What is reached without a model, by the baseline's name."""
        texts, references = self.baseline_predictions(data, split)
        return {name: score_texts(metrics.metric_names, given, references).compute() for name, given in texts.items()}

    def score_baseline_rows(self, metrics: Any, data: DataSplits, split: "Dataset") -> dict[str, RowScores]:
        """The same row by row."""
        texts, references = self.baseline_predictions(data, split)
        return {
            name: collect_text_scores(score_texts(metrics.metric_names, given, references))
            for name, given in texts.items()
        }

    def collect_row_groups(self, split: "Dataset") -> "Sequence[Hashable] | None":
        """For each row that is measured what it shares with others that are then drawn together for an interval."""
        return None

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """One answer a row, as `plait predict` writes them."""
        raise NotImplementedError

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """What the Hub calls this task for a model that reads these modalities."""
        raise NotImplementedError


def check_vocabulary(part: str, size: int, tokens: int) -> None:
    """Raises RecipeError for a tokenizer with tokens that its part of the model does not have."""
    if tokens > size:
        raise RecipeError(
            f"{part} has a vocabulary of {size}, its tokenizer one of {tokens}: they are not of one checkpoint, or "
            f"{part}.config.vocab_size is wrong"
        )


def check_decoder_processor(model: PlaitPreTrainedModel, processor: PlaitProcessor) -> None:
    """Raises RecipeError for a decoder that cannot be trained with this processor."""
    config = model.config.get_text_config()
    check_vocabulary("model.decoder", config.vocab_size, len(processor.target_tokenizer))
    for name in ("pad_token_id", "eos_token_id"):
        if getattr(model.config, name) is None:
            raise RecipeError(f"model.decoder has no {name}: give it as model.options.{name}")
    limit, asked = config.max_position_embeddings, model.generation_config.max_new_tokens
    if config.position_type != "none" and asked is not None and asked > limit:
        raise RecipeError(f"generation.max_new_tokens is {asked}, but the decoder has {limit} positions")


def move_to_device(inputs: Mapping[str, Any], model: PlaitPreTrainedModel) -> dict[str, Any]:
    """Tensors, nested ones too, where the model is."""
    return {
        name: move_to_device(value, model) if isinstance(value, Mapping) else value.to(model.device)
        for name, value in inputs.items()
    }
