"""Evaluation that sees each batch once and keeps no tensors."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ...modeling.backbone.pretrained import PlaitPreTrainedModel


@runtime_checkable
class StreamedMetrics(Protocol):
    """What PlaitTrainer's `compute_metrics` can be besides a function: it gets each batch and the model.

    `records` says what is kept of a batch, one small object a row; those of all processes come together in `add`.
    """

    @property
    def names(self) -> list[str]: ...
    def reset(self) -> None: ...
    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[Any]: ...
    def update(self, records: Sequence[Any]) -> None: ...
    def compute(self) -> dict[str, float]: ...
    def select_predictions(self, records: Sequence[Any]) -> list[Any]: ...
