"""The loss and the error of image generation on evaluation data, row by row."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.trainer_utils import unwrap_peft_model

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.diffusion.flow import expand, flow_loss, mix
from ...modeling.tasks.image_generation import PlaitForImageGeneration
from .row_means import RowMeans

IMAGE_ERROR = "image_mse"


class FlowMetrics(RowMeans):
    """The loss of `PlaitForImageGeneration` and the mean squared error of the image that it predicts (values in -1..1;
    with an autoencoder its standardized latents) at the row's time.

    The time and the noise of a row are seeded by its own image (see `PlaitForImageGeneration.forward`), so that models
    are compared on the same ones. Generated images are measured by `plait.training.metrics.images`.
    """

    measure, subject = IMAGE_ERROR, "image generation"

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[tuple[float, float]]:
        losses, errors = compute_flow_errors(model, batch["inputs"])
        return list(zip(losses.tolist(), errors.tolist(), strict=True))

    def select_predictions(self, records: Sequence[tuple[float, float]]) -> list[float]:
        """Returns the losses, for the Trainer's `predict`."""
        return [loss for loss, _ in records]


def compute_flow_errors(model: PlaitPreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Computes the loss of each row, (batch,), of arguments of the model, and the mean squared error of its predicted
    image, (batch,)."""
    plait: PlaitForImageGeneration = unwrap_peft_model(model)
    given = inputs["target_pixel_values"]
    images = plait.encode_targets(given)
    times, noise = plait.complete_noise(images, inputs.get("times"), inputs.get("noise"), given)
    encoded = {"target_pixel_values": None, "target_latents": images, "times": times, "noise": noise}
    prediction = model(**{**inputs, **encoded}).prediction
    kind = plait.denoiser.config.prediction
    losses = flow_loss(prediction, images, noise, times, kind)
    if kind == "velocity":
        prediction = mix(images, noise, times) + expand(1 - times) * prediction
    return losses, (prediction.to(images) - images).square().flatten(1).mean(dim=1)
