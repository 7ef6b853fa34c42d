"""The evaluation loop of StreamedMetrics, which keeps no logits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..metrics.base import StreamedMetrics
from .evaluation_loss import count_real_rows, hide_fill_rows


def hide_streamed_rows(trainer: Trainer, batch: dict[str, Any]) -> dict[str, Any]:
    """Returns an evaluation batch whose `inputs` have no labels in the rows that only fill the batch, if it has any
    other row."""
    inputs: Any = batch.get("inputs")
    if not isinstance(inputs, Mapping) or not count_real_rows(trainer, inputs):
        return batch
    return {**batch, "inputs": hide_fill_rows(trainer, inputs)[0]}


def evaluate_streamed(
    trainer: Trainer, metrics: StreamedMetrics, dataloader: Any, prefix: str, keeps_predictions: bool
) -> EvalLoopOutput:
    """Evaluates instead of the Trainer's `evaluation_loop`: measures each batch, updates the metrics with its records,
    gathered over all processes, and computes the metrics at the end.

    The `predictions` of the output are those that the metrics select from the records, none without
    `keeps_predictions`. Everything runs in the mixed precision of the arguments.
    """
    model: Any = trainer.model
    if not trainer.accelerator._models:  # training prepares the model; without training it is prepared here
        trainer.accelerator.prepare_model(model, evaluation_mode=True)
    model.eval()
    trainer.callback_handler.eval_dataloader = dataloader
    metrics.reset()
    predictions: list[Any] = []
    for batch in dataloader:
        # metrics also call other methods of the model, but only its forward is prepared for mixed precision
        with torch.no_grad(), trainer.accelerator.autocast():
            own = metrics.measure_batch(model, hide_streamed_rows(trainer, trainer._prepare_inputs(batch)))
        # gathered over all processes, without the rows that only fill the last round of batches
        records: Any = trainer.accelerator.gather_for_metrics(own, use_gather_object=True)
        metrics.update(records)
        predictions += metrics.select_predictions(records) if keeps_predictions else []
        trainer.control = trainer.callback_handler.on_prediction_step(trainer.args, trainer.state, trainer.control)
    scores = {f"{prefix}_{name}": value for name, value in metrics.compute().items()}
    kept = np.array(predictions, dtype=object)
    return EvalLoopOutput(kept, None, scores, num_samples=len(dataloader.dataset))
