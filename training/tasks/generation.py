"""The task of generation: text from texts and other modalities, such as captions, answers, translations, summaries."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from ...configuration import MODALITIES
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.generation.fallback import FALLBACK_OPTIONS
from ...modeling.generation.long_audio import count_window_frames, find_long_audio
from ...modeling.tasks.conditional_generation import PlaitForConditionalGeneration
from ...processing import PlaitProcessor
from ..data.inputs import count_row_tokens, count_target_tokens, encode_target_labels, find_images
from ..data.labels import LabelSpec
from ..data.loading import DataSplits
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from ..metrics.generation import GenerationMetrics, find_most_frequent, generate_texts
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import MEDIA_ROLES, TEXT_ROLES, BaselinePredictions, Settings, Task, move_to_device

if TYPE_CHECKING:
    from datasets import Dataset


@strict
@dataclass
class GenerationSettings(Settings):
    """`max_target_length`: tokens of a target in training at most, with its end token. `references`: how a row with
    several targets is trained on: "each" makes a row of each target, "drawn" picks one at random in every epoch.
    `temperature_fallback`: of speech that is longer than a window, a window whose text repeats itself or is unlikely is
    drawn again at higher temperatures (by a fixed seed) in predictions, unless they are sampled anyway."""

    max_target_length: int | None = None
    temperature_fallback: bool = True
    references: Literal["drawn", "each"] = "drawn"


class Generation(Task):
    """Generation of the column `target` from `text`, `image` and other modalities.

    The target is one text, or a list of texts that are all right. Training uses one of them at random in every epoch,
    or each (see GenerationSettings); metrics compare with all of them, the loss with the first.
    """

    name: ClassVar[str] = "generation"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForConditionalGeneration
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    roles: ClassVar[tuple[str, ...]] = (*TEXT_ROLES, *MEDIA_ROLES, "target")
    prompt_columns: ClassVar[dict[str, str]] = {name: name for name in MODALITIES}
    target_columns: ClassVar[tuple[str, ...]] = ("target",)
    reference_column: ClassVar[str | None] = "target"
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("text", *MEDIA_ROLES), ("target",))
    metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    settings: ClassVar[type[Settings]] = GenerationSettings
    generates: ClassVar[bool] = True
    has_row_scores: ClassVar[bool] = True

    def collect_tokenizer_texts(self, data: "Dataset", part: str) -> Iterable[str | None]:
        """Returns the column `text` for the text tower, all targets for the decoder."""
        if part == "text":
            return super().collect_tokenizer_texts(data, part)
        return (text for target in data["target"] for text in list_references(target))

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Checks the targets, and with `references: each` makes a training row of each target.

        Raises RecipeError for a row without a target.
        """
        check_target_column(data, split)
        each = self.build_settings(recipe.settings).references == "each"
        return split_targets(data) if split == "train" and each else data

    def count_tokens(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        """Counts the tokens of each row's inputs and of its longest target."""
        read = count_row_tokens(collator.processor, data, collator.max_length)
        rows = [list_references(target) for target in data["target"]]
        targets = [text for texts in rows for text in texts]
        counts = iter(count_target_tokens(collator.processor, targets, collator.settings.max_target_length))
        write = [max(next(counts) for _ in texts) for texts in rows]  # enough for whichever target is chosen
        return [a + b for a, b in zip(read, write, strict=True)]

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds the model's inputs, with the (first) target of each row as `labels`."""
        targets = [list_references(row["target"])[0] for row in rows]
        return {
            **encode_target_labels(collator.processor, targets, collator.settings.max_target_length),
            **collator.encode_inputs(rows),
        }

    def sample_rows(self, collator: RowEncoder, rows: Sequence[Row]) -> Sequence[Row]:
        """Returns the rows with one target each, at random."""
        return [{**row, "target": sample_target(collator, row)} for row in rows]

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `inputs` of the model with labels, and the `references` of each row."""
        return {
            "inputs": self.build_batch(collator, rows),
            "references": [list_references(row["target"]) for row in rows],
        }

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> GenerationMetrics:
        """Builds the metrics of generated text, by default BLEU and chrF."""
        return GenerationMetrics(names or self.metrics, processor)

    def baseline_predictions(self, data: DataSplits, split: "Dataset") -> BaselinePredictions:
        """Predicts the most frequent training target ("most_frequent"), and from data with text the text itself
        ("copy") or, if there are also images, the most frequent training target of the same text ("blind")."""
        if data.train is None:
            return BaselinePredictions({}, [])
        best = find_most_frequent(text for target in data.train["target"] for text in list_references(target))
        found = {"most_frequent": [best] * len(split)}
        if "text" in split.column_names:
            has_images = any(name.startswith("image") for name in split.column_names)
            name, texts = (
                ("blind", predict_blind_targets(data.train, split, best)) if has_images else ("copy", split["text"][:])
            )
            found[name] = [text or "" for text in texts]
        return BaselinePredictions(found, [list_references(target) for target in split["target"]])

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields `generated_text` for each row; a speech model reads long clips in windows."""
        windows = count_window_frames(model.config) is not None
        inputs = move_to_device(collator.encode_inputs(rows, whole_clips=windows), model)
        config: Any = model.generation_config
        is_long = windows and find_long_audio(model.config, inputs) is not None
        if is_long and collator.settings.temperature_fallback and not config.do_sample:
            inputs |= FALLBACK_OPTIONS
        yield from ({"generated_text": text} for text in generate_texts(model, inputs, collator.processor))

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "image-text-to-text" for a model with an image tower, else "text2text-generation"."""
        return "image-text-to-text" if "image" in modalities else "text2text-generation"


def predict_blind_targets(train: "Dataset", split: "Dataset", fallback: str) -> list[str]:
    """Predicts for each row the most frequent training target of the same text, the fallback for a text that is not in
    training."""
    seen: dict[str | None, Counter[str]] = {}
    for text, target in zip(train["text"], train["target"], strict=True):
        seen.setdefault(text, Counter()).update(list_references(target))
    return [seen[text].most_common(1)[0][0] if text in seen else fallback for text in split["text"]]


def sample_target(collator: RowEncoder, row: Row) -> str:
    """Returns one of a row's targets at random; rows with the same targets but other texts or images choose
    independently."""
    targets = list_references(row["target"])
    if len(targets) == 1:
        return targets[0]
    about = (str(row.get("text")), *(key for key, _ in find_images(row)), *targets)
    return targets[collator.draw(len(targets), *about)]


def list_references(target: str | Sequence[str]) -> list[str]:
    """Returns the targets of a row as a list."""
    return [target] if isinstance(target, str) else list(target)


def check_target_column(data: "Dataset", split: str) -> None:
    """Raises RecipeError for a row without a target, or with an empty one."""
    empty = [row for row, target in enumerate(data["target"]) if is_empty_target(target)]
    if empty:
        raise RecipeError(
            f"data: row {empty[0]} of {split!r} has an empty target ({len(empty)} of {len(data)} rows have one): "
            "remove such rows"
        )


def is_empty_target(target: str | Sequence[str] | None) -> bool:
    """Returns whether a target is None, has no text, or has a blank one."""
    return not target or not all(text and text.strip() for text in list_references(target))


def split_targets(data: "Dataset") -> "Dataset":
    """Makes a row of each of a row's targets."""
    targets = [list_references(target) for target in data["target"]]
    if all(len(texts) == 1 for texts in targets) and isinstance(data[0]["target"], str):
        return data
    rows = [row for row, texts in enumerate(targets) for _ in texts]
    flat = [text for texts in targets for text in texts]
    return data.remove_columns("target").select(rows).add_column("target", flat)
