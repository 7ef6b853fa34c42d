"""Keeps what a model answers while it is evaluated, so that a report needs no second pass over the rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ..data.labels import MULTI, SINGLE
from ..metrics.base import StreamedMetrics
from ..metrics.classification import Metrics


class LabelRecorder:
    """Metrics of classes or numbers that keep the answers of the first evaluation.

    Attributes:
        predictions, references: as `Metrics` got them; confidence: the probability of each chosen class, or of each
            label; all None before the first evaluation.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.predictions: np.ndarray | None = None
        self.references: np.ndarray | None = None
        self.confidence: np.ndarray | None = None

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor) -> Any:
        """Reduces logits as the metrics do, and adds the confidence of classes."""
        reduced = self.metrics.reduce(logits, labels)
        if self.metrics.problem_type == SINGLE:
            return reduced, logits.float().softmax(-1).amax(-1)
        return (reduced, logits.float().sigmoid()) if self.metrics.problem_type == MULTI else reduced

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Computes the metrics, as the Trainer's `compute_metrics`."""
        reduced: Any = prediction.predictions
        confidence = None
        if self.metrics.problem_type in (SINGLE, MULTI):
            reduced, confidence = reduced
        scores = self.metrics(EvalPrediction(predictions=reduced, label_ids=prediction.label_ids))
        if self.predictions is None:
            self.predictions, self.references = np.asarray(reduced), np.asarray(prediction.label_ids)
            self.confidence = None if confidence is None else np.asarray(confidence)
        return scores


class StreamRecorder:
    """StreamedMetrics that keep the records of the first evaluation, in the order of the rows.

    Attributes:
        records: of each row (of answer spans: of each window).
    """

    def __init__(self, metrics: StreamedMetrics) -> None:
        self.metrics = metrics
        self.evaluations = 0
        self.records: list[Any] = []

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return self.metrics.names

    def reset(self) -> None:
        """Begins an evaluation."""
        self.evaluations += 1
        self.metrics.reset()

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[Any]:
        """Returns one record for each row of the batch."""
        return self.metrics.measure_batch(model, batch)

    def update(self, records: Sequence[Any]) -> None:
        """Adds the records of a batch."""
        if self.evaluations == 1:
            self.records += records
        self.metrics.update(records)

    def compute(self) -> dict[str, float]:
        """Returns the metrics of all rows."""
        return self.metrics.compute()

    def select_predictions(self, records: Sequence[Any]) -> list[Any]:
        """Returns the part of the records that the Trainer's `predict` returns."""
        return self.metrics.select_predictions(records)


Recorder = LabelRecorder | StreamRecorder


@contextmanager
def record_answers(trainer: Any, metrics: Any) -> Iterator[Recorder]:
    """Opens a context in which the first evaluation of a PlaitTrainer with these metrics is recorded."""
    kept = trainer.compute_metrics, trainer.preprocess_logits_for_metrics, trainer.streamed_metrics
    if isinstance(metrics, Metrics):
        recorder: Recorder = LabelRecorder(metrics)
        trainer.compute_metrics, trainer.preprocess_logits_for_metrics = recorder, recorder.reduce
    else:
        recorder = trainer.streamed_metrics = StreamRecorder(metrics)
    try:
        yield recorder
    finally:
        trainer.compute_metrics, trainer.preprocess_logits_for_metrics, trainer.streamed_metrics = kept
