"""Evaluation that measures batch by batch and keeps no logits."""

from typing import Any

import numpy as np
import torch
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..metrics.streaming import StreamedMetrics


def evaluate_streamed(
    trainer: Trainer, metrics: StreamedMetrics, dataloader: Any, prefix: str, keep: bool
) -> EvalLoopOutput:
    """The Trainer's evaluation loop for metrics of this kind; `keep` the predictions too.

    Every process gets the records of all, without the rows that only fill the last round of batches. All is computed in
    the mixed precision of the arguments.
    """
    model: Any = trainer.model
    if not trainer.accelerator._models:  # a training has prepared the model, an evaluation alone does it here
        trainer.accelerator.prepare_model(model, evaluation_mode=True)
    model.eval()
    trainer.callback_handler.eval_dataloader = dataloader
    metrics.reset()
    kept: list[Any] = []
    for batch in dataloader:
        # not all that metrics ask of a model goes through its forward, which alone is prepared for mixed precision
        with torch.no_grad(), trainer.accelerator.autocast():
            found = metrics.measure_batch(model, trainer._prepare_inputs(batch))
        records: Any = trainer.accelerator.gather_for_metrics(found, use_gather_object=True)
        metrics.update(records)
        kept += metrics.select_predictions(records) if keep else []
        trainer.control = trainer.callback_handler.on_prediction_step(trainer.args, trainer.state, trainer.control)
    scores = {f"{prefix}_{name}": value for name, value in metrics.compute().items()}
    predictions = np.array(kept, dtype=object)
    return EvalLoopOutput(predictions, None, scores, num_samples=len(dataloader.dataset))
