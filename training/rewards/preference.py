"""Training on preferences by TRL's DPOTrainer."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.trainer_utils import unwrap_peft_model

from ..data.media import Row, name_data_rows
from ..metrics.preference import PreferenceMetrics
from ..optimization.arguments import PlaitTrainingArguments
from ..tasks.collator import PlaitDataCollator
from ..tasks.inline_images import encode_row_images
from ..tasks.preference import PreferenceSettings
from ..trainer.callbacks import build_early_stopping
from ..trainer.trainer import PlaitTrainer
from .library import LibraryTraining, build_library_arguments, build_library_trainer


class PreferenceBatches:
    """Builds the training batches of DPO from prepared rows of the task preference: `input_ids`, `attention_mask` and
    `completion_mask` (1 where the answer is), each (2 * rows, length), first all chosen answers, then the rejected
    ones, padded on the right, with the images of the rows."""

    def __init__(self, collator: PlaitDataCollator) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds the batch of rows."""
        with name_data_rows(rows):
            chosen = self.collator.task.build_evaluation_batch(self.collator, rows)
            inputs = chosen["inputs"]
            pairs = {
                name: (inputs[name], chosen["rejected"][name]) for name in ("input_ids", "attention_mask", "labels")
            }
            images = encode_row_images(self.collator, [*rows, *rows])
        values = {"input_ids": int(inputs["input_ids"].new_zeros(1)), "attention_mask": 0, "labels": -100}
        joined = {name: stack_padded(*pair, values[name]) for name, pair in pairs.items()}
        labels = joined.pop("labels")
        return {**joined, "completion_mask": (labels != -100).long(), **images}


def stack_padded(first: torch.Tensor, second: torch.Tensor, value: int) -> torch.Tensor:
    """Stacks two tensors, (rows, length) each, into (2 * rows, length), the shorter one padded on the right."""
    length = max(first.shape[1], second.shape[1])
    padded = [torch.nn.functional.pad(each, (0, length - each.shape[1]), value=value) for each in (first, second)]
    return torch.cat(padded)


def build_preference_trainer(
    settings: PreferenceSettings,
    *,
    model: Any,
    args: PlaitTrainingArguments,
    data_collator: PlaitDataCollator,
    train_dataset: Any,
    eval_dataset: Any,
    compute_metrics: PreferenceMetrics,
    callbacks: Sequence[Any],
    processing_class: Any,
) -> Any:
    """Builds TRL's DPOTrainer for prepared rows of the task preference. The reference is the model as it is now.

    Raises RecipeError without TRL, or for what it refuses.
    """
    own = {
        "loss_type": settings.losses,
        "loss_weights": None if settings.loss_weights is None else [float(each) for each in settings.loss_weights],
        "beta": float(settings.beta),
        "label_smoothing": float(settings.label_smoothing),
        "max_length": None,
    }
    made = build_library_arguments("DPO", args, **own)
    evaluator = PlaitTrainer(
        model, args, data_collator, None, eval_dataset, compute_metrics, processing_class=processing_class
    )
    return build_library_trainer(
        "DPO",
        evaluator,
        processing_class,
        (LibraryTraining,),
        model=model,
        ref_model=unwrap_peft_model(copy.deepcopy(model)).eval().requires_grad_(False),
        args=made,
        data_collator=PreferenceBatches(data_collator),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processing_class,
        callbacks=[*callbacks, *build_early_stopping(args)],
    )
