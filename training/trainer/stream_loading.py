"""Trains on a `RowStream`: its loader, and its place in checkpoints."""

import json
from pathlib import Path
from typing import Any

from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..optimization.arguments import PlaitTrainingArguments
from ..streams.rows import RowStream, StreamCollator, TokenBudget


def check_stream(args: PlaitTrainingArguments) -> None:
    """Raises ValueError for arguments that do not fit a stream, which has no end."""
    if args.max_steps <= 0:
        raise ValueError("a stream has no end: set max_steps")
    if args.dataloader_num_workers > 1:
        raise ValueError(f"dataloader_num_workers is {args.dataloader_num_workers}, but a stream has one reader: set 1")


def split_stream(trainer: Any, data: RowStream) -> RowStream:
    """Returns the share of this process, in batches of `tokens_per_batch` or else of the rows of a batch."""
    args: PlaitTrainingArguments = trainer.args
    budget = None if args.tokens_per_batch is None else TokenBudget(args.tokens_per_batch, trainer._count_tokens)
    return data.split(args.train_batch_size, args.process_index, args.world_size, budget)


def build_stream_loader(trainer: Any, data: RowStream) -> DataLoader:
    """Builds the loader of a process's own batches, which accelerate puts on the device and does not split again."""
    args: PlaitTrainingArguments = trainer.args
    collate: Any = StreamCollator(trainer._select_collate_fn(training=True))
    loader = DataLoader(
        data,
        batch_size=None,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        prefetch_factor=args.dataloader_prefetch_factor,
    )
    return prepare_data_loader(
        loader, trainer.accelerator.device, 1, 0, put_on_device=True, rng_types=[], dispatch_batches=False
    )


def name_place_file(checkpoint: Path, process: int) -> Path:
    """Returns the file of a checkpoint in which a process keeps its place in the stream."""
    return checkpoint / f"stream_{process}.json"


def read_place(checkpoint: Path, process: int) -> dict[str, Any]:
    """Reads a process's place in the stream. Raises ValueError for a checkpoint without it."""
    file = name_place_file(checkpoint, process)
    if not file.is_file():
        raise ValueError(
            f"{checkpoint} has no {file.name}: it was trained without a stream, or in fewer processes; resume with the "
            "data and the number of processes that it had, or start anew"
        )
    return json.loads(file.read_text(encoding="utf-8"))


class StreamEpochs(TrainerCallback):
    """Counts the epoch of a stream as the share of the steps that are done, which a resumed Trainer counts from 0."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Sets the epoch, before it is logged."""
        state.epoch = state.global_step / state.max_steps
