"""The task of classification: one class, several classes or a number for each row."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
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
from ..recipes.schema import Recipe
from .base import MEDIA_ROLES, TEXT_ROLES, Scores, Task, move_to_device

if TYPE_CHECKING:
    from datasets import Dataset

HUB_TASKS: dict[tuple[str, ...], str] = {(name,): f"{name}-classification" for name in MODALITIES}


class Classification(Task):
    """Classification: predicts one label, several labels or a number from any set of modalities."""

    name: ClassVar[str] = "classification"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForClassification
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    roles: ClassVar[tuple[str, ...]] = (*TEXT_ROLES, *MEDIA_ROLES, "label", "group")
    prompt_columns: ClassVar[dict[str, str]] = {"text": "text", "image": "image", "audio": "audio"}
    target_columns: ClassVar[tuple[str, ...]] = ("label",)
    needs_labels: ClassVar[bool] = True

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
        if data.labels is None or data.train is None:
            return {}
        train, truth = build_label_array(data.train, data.labels), build_label_array(split, data.labels)
        majority = predict_majority(train, len(split), data.labels.problem_type)
        found = {"majority": metrics.compute_constant(truth, majority)}
        if "text" in split.column_names and any(name.startswith("image") for name in split.column_names):
            texts = (collect_texts(data.train), train)
            blind = predict_blind(texts, collect_texts(split), data.labels.problem_type)
            found["blind"] = metrics.compute_constant(truth, blind)
        return found

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields for each row the label with its score and all `probabilities` (one class), the labels with a
        probability above 0.5 and all `probabilities` (several classes), or the `value` (regression)."""
        with torch.no_grad():
            logits = model(**move_to_device(collator.encode_inputs(rows), model)).logits.float().cpu()
        yield from format_class_answers(logits, read_config_labels(model.config))

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "text-classification" and so on for one modality, else the Hub's name of a multimodal task."""
        return HUB_TASKS.get(modalities, "image-text-to-text" if set(modalities) == {"text", "image"} else "any-to-any")


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


def format_class_answers(logits: Tensor, labels: LabelSpec) -> Iterator[dict[str, Any]]:
    """Yields the prediction of each row (see `Classification.predict_rows`) from logits (batch, labels)."""
    for row in logits:
        if labels.problem_type == REGRESSION:
            yield {"value": round(row.item(), 6)}
            continue
        single = labels.problem_type == SINGLE
        scores = row.softmax(-1) if single else row.sigmoid()
        probabilities = {name: round(score, 6) for name, score in zip(labels.names, scores.tolist(), strict=True)}
        best = max(probabilities, key=lambda name: probabilities[name])
        if single:
            yield {"label": best, "score": probabilities[best], "probabilities": probabilities}
        else:
            chosen = [name for name, score in probabilities.items() if score > 0.5]
            yield {"label": chosen, "probabilities": probabilities}
