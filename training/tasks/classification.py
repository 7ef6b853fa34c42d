"""The task of classification: one class, several classes or a number for each row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from ...configuration.modalities import MODALITIES
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.classification import PlaitForClassification
from ...processing import PlaitProcessor
from ..data.label_vectors import build_vectors
from ..data.labels import MULTI, REGRESSION, SINGLE, LabelSpec, read_config_labels
from ..data.loading import DataSplits
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from ..metrics.baselines import predict_blind, predict_majority
from ..metrics.classification import Metrics
from ..metrics.per_row import RowValues
from ..recipes.errors import RecipeError, check_keys
from ..recipes.schema import Recipe
from .base import MEDIA_ROLES, TEXT_ROLES, Scores, Settings, Task, move_to_device

if TYPE_CHECKING:
    from datasets import Dataset

HUB_TASKS: dict[tuple[str, ...], str] = {(name,): f"{name}-classification" for name in MODALITIES}


DEFAULT_THRESHOLD = 0.5
PROBABILITY_DECIMALS = 6  # in an answer
ROUNDING_MARGIN = 2e-6  # more than rounding brings two of them together


@strict
@dataclass
class ClassificationSettings(Settings):
    """How predictions are made; training does not depend on it. `thresholds`: for several labels a row, the probability
    above which a label is predicted, one for all or `{label: probability}` (default: those that the run has chosen on
    its validation split, else 0.5); `top_k`: how many of the likeliest classes an answer lists with their scores, in
    place of the probabilities of all."""

    thresholds: dict[str, float] | float | int | None = None
    top_k: int | None = None


class Classification(Task):
    """Classification: predicts one label, several labels or a number from any set of modalities."""

    name: ClassVar[str] = "classification"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForClassification
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    roles: ClassVar[tuple[str, ...]] = (*TEXT_ROLES, *MEDIA_ROLES, "label", "group")
    settings: ClassVar[type[Settings]] = ClassificationSettings
    prompt_columns: ClassVar[dict[str, str]] = {name: name for name in MODALITIES}
    target_columns: ClassVar[tuple[str, ...]] = ("label",)
    needs_labels: ClassVar[bool] = True
    has_row_scores: ClassVar[bool] = True

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds the model's inputs, with `labels` if the rows have them (see `build_label_tensor`)."""
        # labels come first: the Trainer reads the number of rows from the first tensor
        labels = (
            build_label_tensor(collator.labels, [row["label"] for row in rows]) if has_labels(collator, rows) else {}
        )
        return {**labels, **collator.encode_inputs(rows)}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> Metrics:
        """Builds the metrics of the labels' problem type."""
        return Metrics(names, SINGLE if labels is None else labels.problem_type)

    def measure_baselines(self, metrics: Metrics, data: DataSplits, split: "Dataset") -> Scores:
        """Computes the metrics of the most frequent training label ("majority") and, if there are also images, of the
        most frequent training label of the same text ("blind")."""
        found = predict_baseline_labels(data, split)
        truth = build_label_array(split, data.labels) if found and data.labels is not None else np.zeros(0)
        return {name: metrics.compute_constant(truth, labels) for name, labels in found.items()}

    def score_baseline_rows(self, metrics: Metrics, data: DataSplits, split: "Dataset") -> Mapping[str, RowValues]:
        """Returns what the metrics of the same baselines are computed from, by name."""
        found = predict_baseline_labels(data, split)
        truth = build_label_array(split, data.labels) if found and data.labels is not None else np.zeros(0)
        return {name: metrics.score_constant_rows(truth, labels) for name, labels in found.items()}

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields for each row the label with its score and all `probabilities` (one class), the labels with a
        probability above their threshold and all `probabilities` (several classes), or the `value` (regression); with
        `settings.top_k` the likeliest classes, `top_k`, in place of `probabilities`.

        Raises RecipeError for thresholds of labels that the model does not have, or `top_k` below 1.
        """
        labels = read_config_labels(model.config)
        thresholds = list_thresholds(labels, collator.settings.thresholds)
        with torch.no_grad():
            logits = model(**move_to_device(collator.encode_inputs(rows), model)).logits.float().cpu()
        yield from format_class_answers(logits, labels, thresholds, collator.settings.top_k)

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "text-classification" and so on for one modality, else the Hub's name of a multimodal task."""
        return HUB_TASKS.get(modalities, "image-text-to-text" if set(modalities) == {"text", "image"} else "any-to-any")


def predict_baseline_labels(data: DataSplits, split: "Dataset") -> dict[str, np.ndarray]:
    """Returns the labels that each baseline predicts for the rows of a split; nothing without training labels."""
    if data.labels is None or data.train is None:
        return {}
    train, kind = build_label_array(data.train, data.labels), data.labels.problem_type
    found = {"majority": predict_majority(train, len(split), kind)}
    if "text" in split.column_names and any(name.startswith("image") for name in split.column_names):
        found["blind"] = predict_blind((collect_texts(data.train), train), collect_texts(split), kind)
    return found


def collect_texts(data: "Dataset") -> list[tuple[str | None, ...]]:
    """Returns the texts of each row, with the second of a pair."""
    names = [name for name in TEXT_ROLES if name in data.column_names]
    return list(zip(*(data[name] for name in names), strict=True))


def has_labels(collator: RowEncoder, rows: Sequence[Row]) -> bool:
    """Returns whether the collator has a LabelSpec and the rows a label column."""
    return collator.labels is not None and "label" in rows[0]


def build_label_tensor(labels: LabelSpec | None, values: Sequence[Any]) -> dict[str, Tensor]:
    """Builds `labels`: (batch,) class ids or numbers, or for several classes (batch, labels) of 0 and 1; -100 (in
    regression NaN) where not known."""
    if labels is not None and labels.problem_type == REGRESSION:
        return {"labels": torch.tensor(values, dtype=torch.float)}
    if labels is None or labels.problem_type != MULTI:
        return {"labels": torch.tensor(values, dtype=torch.long)}
    return {"labels": build_vectors(values, labels.count)}


def build_label_array(data: "Dataset", labels: LabelSpec) -> np.ndarray:
    """Builds the labels of a data set: (rows,) class ids or numbers; for several classes (rows, labels) of 0 and 1;
    -100 (in regression NaN) where not known."""
    values = data["label"][:]
    return (
        build_vectors(values, labels.count).numpy().astype(int) if labels.problem_type == MULTI else np.asarray(values)
    )


def list_thresholds(labels: LabelSpec, given: Mapping[str, float] | float | None) -> dict[str, float]:
    """Returns the threshold of each label, 0..1: 0.5 where none is given.

    Raises RecipeError for a label that the model does not have, or a threshold outside 0..1.
    """
    if not isinstance(given, Mapping):
        given = dict.fromkeys(labels.names, DEFAULT_THRESHOLD if given is None else float(given))
    check_keys(given, labels.names, "settings.thresholds")
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise RecipeError(f"settings.thresholds.{name} is {value}: expected a probability, 0..1")
    return {name: float(given.get(name, DEFAULT_THRESHOLD)) for name in labels.names}


def format_class_answers(
    logits: Tensor, labels: LabelSpec, thresholds: Mapping[str, float] | None = None, top_k: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yields the prediction of each row (see `Classification.predict_rows`) from logits (batch, labels)."""
    if top_k is not None and top_k < 1:
        raise RecipeError(f"top_k is {top_k}: expected at least 1")
    for row in logits:
        if labels.problem_type == REGRESSION:
            yield {"value": round(row.item(), 6)}
            continue
        single = labels.problem_type == SINGLE
        scores = row.softmax(-1) if single else row.sigmoid()
        if single:
            answer: dict[str, Any] = rank_classes(scores, labels.names, 1)[0]
        else:
            answer = {"label": select_labels(scores, labels.names, thresholds or {})}
        if top_k is None:
            shown = zip(labels.names, scores.tolist(), strict=True)
            answer["probabilities"] = {name: round(score, PROBABILITY_DECIMALS) for name, score in shown}
        else:
            answer["top_k"] = rank_classes(scores, labels.names, top_k)
        yield answer


def select_labels(scores: Tensor, names: Sequence[str], thresholds: Mapping[str, float]) -> list[str]:
    """Returns the labels whose probability is above their threshold. scores: (labels,)."""
    least = min(thresholds.values(), default=DEFAULT_THRESHOLD)
    likely = (scores > min(least, DEFAULT_THRESHOLD) - ROUNDING_MARGIN).nonzero()[:, 0]
    found = (
        (names[int(number)], score) for number, score in zip(likely.tolist(), scores[likely].tolist(), strict=True)
    )
    return [
        name for name, score in found if round(score, PROBABILITY_DECIMALS) > thresholds.get(name, DEFAULT_THRESHOLD)
    ]


def rank_classes(scores: Tensor, names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Returns the `count` likeliest classes with their probability, the likeliest first; of equal ones, as they are
    rounded, the one with the smaller number. scores: (labels,)."""
    least = scores.topk(min(count, len(scores))).values[-1]
    near = (~(scores < least - ROUNDING_MARGIN)).nonzero()[:, 0]  # NaN too
    rounded = [round(score, PROBABILITY_DECIMALS) for score in scores[near].tolist()]
    ranked = sorted(zip(near.tolist(), rounded, strict=True), key=lambda one: -one[1])[:count]
    return [{"label": names[number], "score": score} for number, score in ranked]
