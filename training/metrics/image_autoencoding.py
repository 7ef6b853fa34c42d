"""The loss of an autoencoder of images, and the peak signal-to-noise ratio of its reconstructions, row by row."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.diffusion.autoencoder import compute_reconstruction_losses
from .row_means import RowMeans

PSNR = "psnr"
LEAST_ERROR = 1e-10  # of a mean squared error, so that an exact image has a finite ratio


class ReconstructionMetrics(RowMeans):
    """The loss of `PlaitForImageAutoencoding` and the peak signal-to-noise ratio of its reconstructions in dB
    (`compute_psnr`)."""

    measure, subject = PSNR, "an autoencoder"

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[tuple[float, float]]:
        images = batch["inputs"]["target_pixel_values"]
        output, settings = model(target_pixel_values=images), model.config.autoencoder_config
        weight = 0.0 if settings is None else settings.kl_weight
        losses = compute_reconstruction_losses(output.reconstruction, images, output.divergence, weight)
        ratios = compute_psnr(output.reconstruction, images)
        return list(zip(losses.tolist(), ratios.tolist(), strict=True))

    def select_predictions(self, records: Sequence[tuple[float, float]]) -> list[float]:
        """Returns the ratios of the rows, for the Trainer's `predict`."""
        return [ratio for _, ratio in records]


def compute_psnr(images: Tensor, references: Tensor) -> Tensor:
    """Computes the peak signal-to-noise ratio 10 log10(2^2 / mse) in dB, (batch,), of images, (batch, channels, height,
    width) from -1 to 1; values beyond are clipped. An exact image has 106 dB."""
    errors = (images.clamp(-1, 1).double() - references.double()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / errors.clamp_min(LEAST_ERROR))
