"""Draws images during training and prediction: a grid of fixed conditions at every evaluation, and single images."""

import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import unwrap_peft_model

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.identity import compute_item_key, find_path
from ..data.image_grid import draw_grid
from ..data.media import TARGET_IMAGE, Row
from ..data.row_encoder import RowEncoder
from .base import move_to_device

GRID_FOLDER = "images"
MOST_COLUMNS = 8


class ImageGrids(TrainerCallback):
    """A callback that draws an image of each of a few conditions at every evaluation, always from the same noise, with
    the weights that are evaluated: as `images/step-NUMBER.png` in the run folder, and to TensorBoard, trackio and wandb
    if the run reports to them.

    Args:
        rows: the conditions; None: those of the first `count` rows of the evaluated data with different ones.
        settings: of the task.
        max_length, seed: of the collator.
        folder: of the run; None: that of the training arguments.
    """

    def __init__(
        self, rows: Sequence[Row] | None, settings: Any, max_length: int | None, seed: int, folder: str | None
    ) -> None:
        self.rows, self.settings, self.max_length, self.seed, self.folder = rows, settings, max_length, seed, folder
        self.last_step: int | None = None
        self.writer: Any = None

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PlaitPreTrainedModel | None = None,
        processing_class: PlaitProcessor | None = None,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Draws the grid at the first batch of an evaluation, in the main process."""
        if state.global_step == self.last_step or not state.is_world_process_zero:
            return
        if model is None or not isinstance(processing_class, PlaitProcessor):
            return
        self.last_step = state.global_step
        if self.rows is None:
            self.rows = list(select_conditions(eval_dataloader.dataset, self.settings.grid_images))
        encoder = RowEncoder(processing_class, None, self.settings, self.max_length, self.seed)
        images = draw_images(model, encoder, self.rows)
        texts = [str(row.get("text") or "") for row in self.rows]
        grid = draw_grid(images, min(len(images), MOST_COLUMNS), texts if any(texts) else None)
        folder = Path(self.folder or str(args.output_dir)).expanduser() / GRID_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        grid.save(folder / f"step-{state.global_step:06d}.png")
        self.report(grid, args, state.global_step)

    def report(self, grid: Image.Image, args: TrainingArguments, step: int) -> None:
        """Sends the grid to the loggers of the run that show images."""
        loggers = args.report_to or ()
        if "wandb" in loggers:
            import wandb  # pyright: ignore[reportMissingImports]

            wandb.log({"images": wandb.Image(grid), "train/global_step": step})
        if "trackio" in loggers:
            import trackio  # pyright: ignore[reportMissingImports]

            trackio.log({"images": trackio.Image(np.asarray(grid)), "train/global_step": step})
        if "tensorboard" in loggers:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = self.writer or SummaryWriter(str(Path(str(args.output_dir)) / "runs" / GRID_FOLDER))
            self.writer.add_image("images", np.asarray(grid), step, dataformats="HWC")
            self.writer.flush()


def select_conditions(data: Any, count: int) -> Iterator[Row]:
    """Yields the first `count` rows with different conditions, without their target images."""
    seen: set[tuple[str, ...]] = set()
    for row in data:
        condition = {name: value for name, value in row.items() if name != TARGET_IMAGE}
        if len(seen) < count and (about := identify_row(condition)) not in seen:
            seen.add(about)
            yield condition
        if len(seen) == count:
            return


def identify_row(row: Row) -> tuple[str, ...]:
    """Returns words that tell a row from others: its texts, and the paths or contents of its images and clips."""
    return tuple(str(identify_cell(value)) for value in row.values())


def identify_cell(value: Any) -> Any:
    """Returns a cell's text, number or path, or the key of its content."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    return find_path(value) or compute_item_key(value)


@torch.no_grad()
def draw_images(model: PlaitPreTrainedModel, encoder: RowEncoder, rows: Sequence[Row]) -> Tensor:
    """Generates an image for each row, (rows, channels, height, width) in -1..1, from noise that depends on nothing but
    the row and the encoder's seed."""
    plait: Any = unwrap_peft_model(model)
    inputs = move_to_device(encoder.encode_inputs(rows), plait)
    noise = [torch.Generator().manual_seed(encoder.draw(2**62, *identify_row(row))) for row in rows]
    return plait.generate_images(**inputs, generator=noise, output_type="pt", **encoder.settings.drawing).float().cpu()


def name_image(row: Row, image: Image.Image) -> str:
    """Returns a name of a generated image: the beginning of its text, and a digest of what it shows."""
    words = re.findall(r"\w+", str(row.get("text") or "image").lower())
    return f"{'-'.join(words)[:40].strip('-') or 'image'}-{sha256(image.tobytes()).hexdigest()[:8]}"
