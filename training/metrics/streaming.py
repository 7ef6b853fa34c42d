"""Evaluation that sees each batch once and keeps no tensors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from transformers.trainer_utils import EvalLoopOutput

from ...modeling.backbone.pretrained import PlaitPreTrainedModel

if TYPE_CHECKING:
    from ..trainer.trainer import PlaitTrainer


@runtime_checkable
class StreamedMetrics(Protocol):
    """What PlaitTrainer's `compute_metrics` can be besides a function: it gets each batch and the model.

    `records` says what is kept of a batch, one small object a row; those of all processes come together in `add`.
    """

    @property
    def names(self) -> list[str]: ...
    def start(self) -> None: ...
    def records(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[Any]: ...
    def add(self, records: Sequence[Any]) -> None: ...
    def compute(self) -> dict[str, float]: ...
    def predictions(self, records: Sequence[Any]) -> list[Any]: ...


def stream(
    trainer: "PlaitTrainer", metrics: StreamedMetrics, dataloader: Any, prefix: str, keep: bool
) -> EvalLoopOutput:
    """The Trainer's evaluation loop for metrics of this kind; `keep` the predictions too.

    Every process gets the records of all, without the rows that only fill the last round of batches. All is computed in
    the mixed precision of the arguments.
    """
    if not trainer.accelerator._models:  # a training has prepared the model, an evaluation alone does it here
        trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)
    model: Any = trainer.model.eval()
    trainer.callback_handler.eval_dataloader = dataloader
    metrics.start()
    kept: list[Any] = []
    for batch in dataloader:
        # not all that metrics ask of a model goes through its forward, which alone is prepared for mixed precision
        with torch.no_grad(), trainer.accelerator.autocast():
            found = metrics.records(model, trainer._prepare_inputs(batch))
        records: Any = trainer.accelerator.gather_for_metrics(found, use_gather_object=True)
        metrics.add(records)
        kept += metrics.predictions(records) if keep else []
        trainer.control = trainer.callback_handler.on_prediction_step(trainer.args, trainer.state, trainer.control)
    scores = {f"{prefix}_{name}": value for name, value in metrics.compute().items()}
    predictions = np.array(kept, dtype=object)
    return EvalLoopOutput(predictions, None, scores, num_samples=len(dataloader.dataset))
