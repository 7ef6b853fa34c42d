"""Text written from any mix of texts and pictures: captions, answers in words, translations, summaries."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.conditional_generation import PlaitForConditionalGeneration
from ...processing import PlaitProcessor
from ..data.inputs import label_counts, pictures_of, target_labels, text_lengths
from ..data.labels import Labels
from ..data.loading import Data
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from ..metrics.generation import GenerationMetrics, most_frequent, written
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import MEDIA_ROLES, TEXT_ROLES, Guesses, Settings, Task, on_device

if TYPE_CHECKING:
    from datasets import Dataset


@strict
@dataclass
class GenerationSettings(Settings):
    """`max_target_length`: tokens a target in training, its end included. `references`: of a row's several targets
    each is trained on as a row of its own, or one is drawn in every epoch."""

    max_target_length: int | None = None
    references: Literal["drawn", "each"] = "drawn"


class Generation(Task):
    """The columns text and image are read, `target` is written: one text, or a list of texts that are all right. One of
    them is drawn in every epoch, or each trained on; measured is against all (the loss: against the first)."""

    name: ClassVar[str] = "generation"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForConditionalGeneration
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    roles: ClassVar[tuple[str, ...]] = (*TEXT_ROLES, *MEDIA_ROLES, "target")
    answered: ClassVar[tuple[str, ...]] = ("target",)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "image"), ("target",))
    metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    settings: ClassVar[type[Settings]] = GenerationSettings
    writes: ClassVar[bool] = True
    scores_rows: ClassVar[bool] = True

    def texts(self, data: "Dataset", part: str) -> Iterable[str | None]:
        if part == "text":
            return super().texts(data, part)
        return (text for target in data["target"] for text in references_of(target))

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        check_targets(data, split)
        each = self.make_settings(recipe.settings).references == "each"
        return one_target_a_row(data) if split == "train" and each else data

    def lengths(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        read = text_lengths(collator.processor, data, collator.max_length)
        rows = [references_of(target) for target in data["target"]]
        targets = [text for texts in rows for text in texts]
        counts = iter(label_counts(collator.processor, targets, collator.settings.max_target_length))
        write = [max(next(counts) for _ in texts) for texts in rows]  # whichever is drawn
        return [a + b for a, b in zip(read, write, strict=True)]

    def batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        targets = [references_of(row["target"])[0] for row in rows]
        return {
            **target_labels(collator.processor, targets, collator.settings.max_target_length),
            **collator.inputs(rows),
        }

    def drawn(self, collator: RowEncoder, rows: Sequence[Row]) -> Sequence[Row]:
        return [{**row, "target": drawn_target(collator, row)} for row in rows]

    def evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        return {
            "inputs": self.batch(collator, rows),
            "references": [references_of(row["target"]) for row in rows],
        }

    def make_metrics(
        self, names: Sequence[str], labels: Labels | None, processor: PlaitProcessor, recipe: Recipe
    ) -> GenerationMetrics:
        return GenerationMetrics(names or self.metrics, processor)

    def guesses(self, data: Data, split: "Dataset") -> Guesses:
        """The most frequent training target for every row; where text alone is read, that as it is; where pictures are
        too, the most frequent target of the same text (blind)."""
        if data.train is None:
            return Guesses({}, [])
        best = most_frequent(text for target in data.train["target"] for text in references_of(target))
        found = {"most_frequent": [best] * len(split)}
        if "text" in split.column_names:
            pictures = any(name.startswith("image") for name in split.column_names)
            name, texts = ("blind", remembered(data.train, split, best)) if pictures else ("copy", split["text"][:])
            found[name] = [text or "" for text in texts]
        return Guesses(found, [references_of(target) for target in split["target"]])

    def answers(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """The text that the model writes, under `generated_text`."""
        inputs = on_device(collator.inputs(rows), model)
        yield from ({"generated_text": text} for text in written(model, inputs, collator.processor))

    def hub_task(self, modalities: tuple[str, ...]) -> str:
        return "image-text-to-text" if "image" in modalities else "text2text-generation"


def remembered(train: "Dataset", split: "Dataset", fallback: str) -> list[str]:
    """For each row the most frequent training target of its text, the fallback for a text that training lacks."""
    seen: dict[str | None, Counter[str]] = {}
    for text, target in zip(train["text"], train["target"], strict=True):
        seen.setdefault(text, Counter()).update(references_of(target))
    return [seen[text].most_common(1)[0][0] if text in seen else fallback for text in split["text"]]


def drawn_target(collator: RowEncoder, row: Row) -> str:
    """One of a row's targets; rows that have the same ones draw apart where their text or picture differs."""
    targets = references_of(row["target"])
    if len(targets) == 1:
        return targets[0]
    about = (str(row.get("text")), *(key for key, _ in pictures_of(row)), *targets)
    return targets[collator.draw(len(targets), *about)]


def references_of(target: str | Sequence[str]) -> list[str]:
    """The right texts of a row."""
    return [target] if isinstance(target, str) else list(target)


def check_targets(data: "Dataset", split: str) -> None:
    """Raises RecipeError for a row without a target, or with an empty one."""
    empty = [row for row, target in enumerate(data["target"]) if is_empty(target)]
    if empty:
        raise RecipeError(
            f"data: row {empty[0]} of {split!r} has an empty target ({len(empty)} of {len(data)} rows have): remove "
            "such rows"
        )


def is_empty(target: str | Sequence[str] | None) -> bool:
    return not target or not all(text and text.strip() for text in references_of(target))


def one_target_a_row(data: "Dataset") -> "Dataset":
    """A row for each of several targets."""
    targets = [references_of(target) for target in data["target"]]
    if all(len(texts) == 1 for texts in targets) and isinstance(data[0]["target"], str):
        return data
    rows = [row for row, texts in enumerate(targets) for _ in texts]
    flat = [text for texts in targets for text in texts]
    return data.remove_columns("target").select(rows).add_column("target", flat)
