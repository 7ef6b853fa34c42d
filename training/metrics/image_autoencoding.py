"""The loss of an autoencoder of images, and the peak signal-to-noise ratio of its reconstructions, row by row."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.diffusion.autoencoder import compute_reconstruction_losses
from .base import expect_known, expect_rows
from .per_row import RowScore, RowScores

PSNR = "psnr"
LEAST_ERROR = 1e-10  # of a mean squared error, so that an exact image has a finite ratio


class AutoencodingRow(NamedTuple):
    """The record of a row: its loss, and the peak signal-to-noise ratio of its reconstruction in dB."""

    loss: float
    ratio: float


class ReconstructionMetrics:
    """The loss of `PlaitForImageAutoencoding` and the peak signal-to-noise ratio of its reconstructions
    (`compute_psnr`), means over the rows. For PlaitTrainer's `compute_metrics`.

    Raises:
        ValueError: an unknown metric name.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        for name in names:
            expect_known("metric", name, (PSNR,), " of an autoencoder")
        self.reset()

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return [PSNR]

    def reset(self) -> None:
        """Forgets all rows."""
        self.rows: list[AutoencodingRow] = []

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[AutoencodingRow]:
        """Returns the record of each row of a batch, under `inputs` the arguments of the model."""
        images = batch["inputs"]["target_pixel_values"]
        output, settings = model(target_pixel_values=images), model.config.autoencoder_config
        weight = 0.0 if settings is None else settings.kl_weight
        losses = compute_reconstruction_losses(output.reconstruction, images, output.divergence, weight)
        ratios = compute_psnr(output.reconstruction, images)
        return [AutoencodingRow(*row) for row in zip(losses.tolist(), ratios.tolist(), strict=True)]

    def update(self, records: Sequence[AutoencodingRow]) -> None:
        """Adds the records of a batch, gathered over all processes."""
        self.rows += records

    def compute(self) -> dict[str, float]:
        """Returns `{name: mean}` over all rows since `reset`."""
        expect_rows(len(self.rows))
        return {name: score.compute() for name, score in self.compute_per_row().items()}

    def compute_per_row(self) -> RowScores:
        """Returns the scores of the rows by metric, in the order of adding."""
        table = np.array(self.rows, dtype=float).reshape(-1, 2)
        return {
            name: RowScore(values, np.ones_like(values)) for name, values in zip(("loss", PSNR), table.T, strict=True)
        }

    def select_predictions(self, records: Sequence[AutoencodingRow]) -> list[float]:
        """Returns the ratios of the rows, for the Trainer's `predict`."""
        return [row.ratio for row in records]


def compute_psnr(images: Tensor, references: Tensor) -> Tensor:
    """Computes the peak signal-to-noise ratio 10 log10(2^2 / mse) in dB, (batch,), of images, (batch, channels, height,
    width) from -1 to 1; values beyond are clipped. An exact image has 106 dB."""
    errors = (images.clamp(-1, 1).double() - references.double()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / errors.clamp_min(LEAST_ERROR))
