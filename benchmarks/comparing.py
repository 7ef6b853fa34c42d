"""The part of the matrix in one space: every text family x every image family as the towers of `PlaitForRetrieval`.

Each audio and each video family is the third side of some pair; the losses take turns.
"""

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor
from zoo import AUDIOS, IMAGES, TEXTS, VIDEOS, Family, example, source_of, without

from plait import PlaitForRetrieval

LOSSES = {"info_nce": {}, "sigmoid": {"logit_scale_init_value": 2.3, "logit_bias_init_value": -2.0}}
LOADER = hf.AutoModelForZeroShotImageClassification


class Comparison(NamedTuple):
    """What is composed: a family for each side, and the loss of the space."""

    towers: tuple[tuple[str, Family], ...]
    loss: str

    def __str__(self) -> str:
        return f"{' with '.join(family.name for _, family in self.towers)} by {self.loss}"


def comparisons_of(sample: int | None) -> list[Comparison]:
    """All pairs of a text and an image family, or a sample: each text meets `sample` images, each image some text; an
    audio or a video family joins one of the first pairs."""
    found, more = [], [*(("audio", family) for family in AUDIOS), *(("video", family) for family in VIDEOS)]
    for step, row in product(range(sample or len(IMAGES)), range(max(len(TEXTS), len(IMAGES)))):
        towers = (("text", TEXTS[row % len(TEXTS)]), ("image", IMAGES[(row + step) % len(IMAGES)]))
        third = more[row : row + 1] if step == 0 else []
        found.append(Comparison((*towers, *third), list(LOSSES)[(row + step) % 2]))
    return found


def sources_of(cells: list[Comparison], folder: Path) -> dict[str, Any]:
    """What `compose` takes, by family."""
    families = {family.name: family for cell in cells for _, family in cell.towers}
    return {name: source_of(family, folder / name) for name, family in families.items()}


def brought_together(cell: Comparison, sources: dict[str, Any]) -> PlaitForRetrieval:
    """The cell's towers in one space."""
    towers = {side: sources[family.name] for side, family in cell.towers}
    space = {"projection_dim": 16, "loss": cell.loss, **LOSSES[cell.loss]}
    return PlaitForRetrieval.compose(**towers, retrieval_config=space, verbose=False)


def rows_of(cell: Comparison) -> dict[str, Tensor]:
    """Rows of which one lacks the text, one the picture, and so on; those that have everything differ."""
    inputs: dict[str, Tensor] = {}
    rows = len(cell.towers) + 3
    for number, (side, family) in enumerate(cell.towers, start=1):
        inputs |= without(example(side, family, rows), side, number)
    return inputs


def check_vectors(model: PlaitForRetrieval, inputs: dict[str, Tensor]) -> None:
    """Each side's vectors are those of `get_..._features`, of unit length; logits are what the loss compares."""
    with torch.no_grad():
        outputs, sides = model.eval()(**inputs), model.embed(inputs)
        first, second = list(sides.values())[:2]
        assert torch.equal(outputs.logits, model.similarity(first.vectors, second.vectors)), "other logits"
        for side, embedded in sides.items():
            lengths = embedded.vectors[embedded.present].norm(dim=1)
            assert torch.allclose(lengths, torch.ones_like(lengths)), f"{side}: vectors of length {lengths.tolist()}"
