"""Generated images of a pipeline and of `plait predict`: batches of rows to images, a grid or a folder of files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ...configuration.messages import to_one_line
from ...configuration.modalities import MEDIA
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ..data.identity import find_path
from ..data.image_grid import draw_grid
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..tasks.base import move_to_device
from ..tasks.image_grids import name_image
from .predict import load_predictor

if TYPE_CHECKING:
    from datasets import Dataset

DRAWING_SETTINGS = ("guidance_scale", "guidance_interval", "num_inference_steps")  # of a recipe's `settings`
ROW_OPTIONS = ("image", "mask_image", "negative_text", "generator")  # of `generate_images`: one, or one for each
MOST_GRID_COLUMNS = 8
GRID_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of files with a grid of images


def is_image_output(output: Path | None) -> bool:
    """Returns whether an output is a grid of images, or a folder for them."""
    return output is not None and output.suffix.lower() in ("", *GRID_SUFFIXES)


def find_drawing_options(recipe: Recipe) -> dict[str, Any]:
    """Returns the arguments of `generate_images` that a recipe's settings give."""
    return {name: recipe.settings[name] for name in DRAWING_SETTINGS if name in recipe.settings}


def generate_batches(
    model: PlaitPreTrainedModel,
    encoder: RowEncoder,
    rows: "Sequence[Row] | Dataset",
    batch_size: int,
    options: Mapping[str, Any],
) -> Iterator[Any]:
    """Yields the images of each batch of rows, as `generate_images` returns them with these options."""
    sampler: Any = model
    for start in range(0, len(rows), batch_size):
        batch = [rows[row] for row in range(start, min(start + batch_size, len(rows)))]
        own = {name: select_batch(value, start, len(batch), len(rows)) for name, value in options.items()
               if name in ROW_OPTIONS}  # fmt: skip
        inputs = move_to_device(encoder.encode_inputs(batch), model)
        yield sampler.generate_images(**inputs, processor=encoder.processor, **{**options, **own})


def select_batch(values: Any, start: int, count: int, rows: int) -> Any:
    """Returns the values of `count` rows from a list or tensor with one, or several, for each of `rows` rows; any other
    value unchanged."""
    is_listed = isinstance(values, Sequence | Tensor) and not isinstance(values, str)
    if not is_listed or len(values) < rows or len(values) % rows:
        return values
    each = len(values) // rows
    return values[start * each : (start + count) * each]


def join_batches(batches: Sequence[Any]) -> Any:
    """Joins the images of batches: lists, arrays or tensors."""
    if isinstance(batches[0], Tensor):
        return torch.cat(list(batches))
    if isinstance(batches[0], list):
        return [image for batch in batches for image in batch]
    import numpy as np

    return np.concatenate(batches)


def predict_images(
    reference: str, rows: "Sequence[Row] | Dataset", recipe: Recipe, count: int, batch_size: int = 32
) -> Iterator[list[Image.Image]]:
    """Yields the `count` images of each row, whose seeds follow from the recipe's.

    Raises RecipeError for a model that cannot be loaded, an input that cannot be read, or wrong settings.
    """
    model, collator = load_predictor(reference, rows, recipe)
    if count < 1:
        raise RecipeError(f"--num-images {count}: give at least 1")
    options = {**find_drawing_options(recipe), "num_images_per_prompt": count}
    options["generator"] = torch.Generator().manual_seed(recipe.seed)
    try:
        batches = generate_batches(model, collator, rows, batch_size, options)
        total = -(-len(rows) // batch_size)
        for images in tqdm(batches, desc="predict", unit="batch", total=total, disable=total <= 1):
            yield from (images[first : first + count] for first in range(0, len(images), count))
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(to_one_line(error)) from error


def write_images(rows: "Sequence[Row] | Dataset", images: Iterator[list[Image.Image]], output: Path) -> int:
    """Writes the images of each row as a grid, one row for each if there are several, to a file, or as single
    files into a folder; returns their number."""
    if output.suffix:
        found = list(images)
        labels = [describe_row(rows[number]) for number in range(len(found))]
        flat = [image for several in found for image in several]
        columns = len(found[0]) if len(found[0]) > 1 else min(MOST_GRID_COLUMNS, len(flat))
        output.parent.mkdir(parents=True, exist_ok=True)
        draw_grid(flat, columns, labels if any(labels) else None).save(output)
        return len(flat)
    output.mkdir(parents=True, exist_ok=True)
    written = 0
    for number, several in enumerate(images):
        for image in several:
            image.save(output / f"{number:04d}-{name_image(rows[number], image)}.png")
            written += 1
    return written


def describe_row(row: Row) -> str:
    """Returns a row's texts, and the names of the files of its images and clips."""
    files = [Path(find_path(value) or "").name for name, value in row.items() if name in MEDIA]
    texts = [value for name, value in row.items() if name not in MEDIA and isinstance(value, str)]
    return ", ".join(word for word in (*texts, *files) if word)
