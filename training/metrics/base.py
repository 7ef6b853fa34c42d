"""The protocol of metrics: reset, update with the records of each batch, compute."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ...configuration.messages import suggest
from ...modeling.backbone.pretrained import PlaitPreTrainedModel


@runtime_checkable
class EvaluationMetrics(Protocol):
    """The metrics of one evaluation: `reset`, `update` with the records of each batch, then `compute`.

    The records of a batch are gathered over all processes before `update` gets them, without the rows that only fill
    the last round of batches.
    """

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        ...

    def reset(self) -> None:
        """Forgets all rows."""
        ...

    def update(self, records: Any) -> None:
        """Adds the records of a batch, gathered over all processes."""
        ...

    def compute(self) -> dict[str, float]:
        """Returns `{name: value}` over all rows since `reset`."""
        ...


@runtime_checkable
class StreamedMetrics(EvaluationMetrics, Protocol):
    """Metrics that run the model on each batch themselves: no logits are kept (see `evaluate_streamed`)."""

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[Any]:
        """Returns one record for each row of this process's batch, small and picklable: all processes get it."""
        ...

    def select_predictions(self, records: Sequence[Any]) -> list[Any]:
        """Returns the part of the records that the Trainer's `predict` returns."""
        ...


def expect_known(kind: str, name: str, known: Collection[str], where: str = "") -> None:
    """Raises ValueError for a name that is not among the known ones, with the nearest or all valid names."""
    if name not in known:
        raise ValueError(f"no {kind} {name!r}{where}{suggest(name, known)}")


def expect_rows(count: int) -> None:
    """Raises ValueError if a metric is computed before any row was added."""
    if not count:
        raise ValueError("no rows: call update with at least one row before compute")
