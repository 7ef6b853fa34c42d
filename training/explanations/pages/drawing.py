"""Files of explained images: each map over its image, with its scale."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ...data.media import Row
from ..results import Attribution, Explanation
from .colours import add_scale, draw_map, draw_overlay, find_full_colour
from .page import find_image

FOLDER = "images"


def draw_explained_image(row: Row, name: str, attribution: Attribution, unit: str) -> Image.Image:
    """Draws an image's map over the image (alone, if the image cannot be read), with a bar of the colours."""
    scale, image = find_full_colour(attribution.values), find_image(row, name)
    if image is None or (image.height, image.width) != attribution.values.shape:
        return add_scale(draw_map(attribution.values, scale), scale, unit)
    return add_scale(draw_overlay(image, attribution.values, scale), scale, unit)


def save_overlays(rows: Sequence[Row], explanation: Explanation, folder: Path, unit: str = "nats") -> list[Path]:
    """Writes images/row-N-NAME.png for every explained image into the folder, and returns the files."""
    files = []
    for number, (row, found) in enumerate(zip(rows, explanation, strict=True)):
        for name, attribution in found.attributions.items():
            if attribution.modality == "image":
                files.append(folder / FOLDER / f"row-{number}-{name}.png")
                files[-1].parent.mkdir(parents=True, exist_ok=True)
                draw_explained_image(row, name, attribution, unit).save(files[-1])
    return files
