"""What PlaitTrainer does for image generation: standardizes conditions and latents before the first step, and finds the
buckets of the rows."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import unwrap_peft_model

from ...modeling.tasks.image_generation import PlaitForImageGeneration
from ..data.media import TARGET_IMAGE, Row
from ..data.samplers import shuffle_indices
from ..optimization.arguments import PlaitTrainingArguments
from ..tasks.base import move_to_device
from ..tasks.buckets import iterate_row_buckets, read_buckets
from ..tasks.collator import PlaitDataCollator
from ..tasks.image_generation import ImageGenerationSettings


class ConditionStandardization(TrainerCallback):
    """Sets the mean and standard deviation of a new model's conditions from the training data, also from cached tower
    outputs (see `PlaitForImageGeneration.fit_condition_scale`), and of the latents of our own autoencoder
    (`fit_latent_scale`), and lets every process draw noise of its own."""

    def __init__(self, collator: PlaitDataCollator) -> None:
        self.collator = collator

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        train_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        """Standardizes, unless training is resumed or the model is standardized already."""
        if args.world_size > 1 and not state.global_step:
            torch.manual_seed(args.seed + args.process_index)
        plait: Any = unwrap_peft_model(model) if model is not None else None
        limit = self.collator.settings.standardize_rows
        if not limit or train_dataloader is None or state.global_step:
            return
        batches = partial(self.select_batches, train_dataloader.dataset, limit, args.eval_batch_size)
        if not plait.condition_scale.is_fitted:
            conditions = map(self.encode_condition, batches())
            plait.fit_condition_scale(move_to_device(batch, plait) for batch in conditions)
        if needs_latent_scale(plait):
            targets = map(self.collator.encode_target_images, batches())
            plait.fit_latent_scale(move_to_device(batch, plait) for batch in targets)

    def encode_condition(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Encodes the conditions of rows, without their target images."""
        return self.collator.encode_inputs(
            [{name: value for name, value in row.items() if name != TARGET_IMAGE} for row in rows]
        )

    def select_batches(self, data: Any, limit: int, size: int) -> Iterator[list[Row]]:
        """Yields at most `limit` rows, at random (of a stream the first), in batches of `size`."""
        if isinstance(data, IterableDataset):
            rows = islice(data, limit)
        else:
            rows = (data[row] for row in sorted(shuffle_indices(len(data), self.collator.seed)[:limit]))
        while batch := list(islice(rows, size)):
            yield batch


def needs_latent_scale(model: PlaitForImageGeneration) -> bool:
    """Returns whether a model has an autoencoder of our own whose latents are not standardized yet."""
    config = model.config.autoencoder_config
    return config is not None and config.diffusers_config is None and not model.autoencoder.scale.is_fitted


def find_data_buckets(args: PlaitTrainingArguments, data: Any, collator: Any) -> list[int] | None:
    """Returns the number of each row's bucket for a collator of image generation with the setting `buckets`; None for
    any other.

    Raises ValueError for another way of choosing the rows of a batch, or a stream.
    """
    collator = getattr(collator, "__self__", collator)  # while a loader is built, the collator is one of its methods
    settings = getattr(collator, "settings", None)
    if not isinstance(settings, ImageGenerationSettings) or not settings.buckets:
        return None
    if args.share_images or args.tokens_per_batch is not None or args.train_sampling_strategy != "random":
        raise ValueError(
            "settings.buckets cannot be used with share_images, tokens_per_batch or train_sampling_strategy: each "
            "chooses the rows of a batch, so set only one"
        )
    if isinstance(data, IterableDataset):
        raise ValueError(f"settings.buckets needs all rows beforehand, but a {type(data).__name__} is a stream")
    return list(iterate_row_buckets(data, read_buckets(settings.buckets)))


def build_standardization(model: nn.Module, collator: Any) -> ConditionStandardization | None:
    """Builds the callback for a model of image generation and the collator of its task; None for others."""
    is_generation = isinstance(unwrap_peft_model(model), PlaitForImageGeneration)
    known = isinstance(collator, PlaitDataCollator) and isinstance(collator.settings, ImageGenerationSettings)
    return ConditionStandardization(collator) if is_generation and known else None
