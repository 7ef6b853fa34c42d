"""The loss and the error of image generation on evaluation data, row by row."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from transformers.trainer_utils import unwrap_peft_model

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.diffusion.flow import expand, flow_loss, mix
from ...modeling.tasks.image_generation import PlaitForImageGeneration
from .base import expect_known, expect_rows
from .per_row import RowScore, RowScores

IMAGE_ERROR = "image_mse"


class FlowRow(NamedTuple):
    """The record of a row: its loss, and the mean squared error of the image that the model predicts (values in -1..1;
    with an autoencoder its standardized latents) at the row's time."""

    loss: float
    image_error: float


class FlowMetrics:
    """The loss of `PlaitForImageGeneration` and the error of the predicted images, means over the rows. For
    PlaitTrainer's `compute_metrics`.

    The time and the noise of a row are seeded by its own image (see `PlaitForImageGeneration.forward`), so that models
    are compared on the same ones. Generated images are measured by `plait.training.metrics.images`.

    Raises:
        ValueError: an unknown metric name.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        for name in names:
            expect_known("metric", name, (IMAGE_ERROR,), " of image generation")
        self.reset()

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return [IMAGE_ERROR]

    def reset(self) -> None:
        """Forgets all rows."""
        self.rows: list[FlowRow] = []

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[FlowRow]:
        """Returns the record of each row of a batch, under `inputs` the arguments of the model."""
        losses, errors = compute_flow_errors(model, batch["inputs"])
        return [FlowRow(*row) for row in zip(losses.tolist(), errors.tolist(), strict=True)]

    def update(self, records: Sequence[FlowRow]) -> None:
        """Adds the records of a batch, gathered over all processes."""
        self.rows += records

    def compute(self) -> dict[str, float]:
        """Returns `{name: mean}` over all rows since `reset`."""
        expect_rows(len(self.rows))
        return {name: score.compute() for name, score in self.compute_per_row().items()}

    def compute_per_row(self) -> RowScores:
        """Returns the scores of the rows by metric, in the order of adding."""
        table = np.array(self.rows, dtype=float).reshape(-1, 2)
        pairs = zip(("loss", IMAGE_ERROR), table.T, strict=True)
        return {name: RowScore(values, np.ones_like(values)) for name, values in pairs}

    def select_predictions(self, records: Sequence[FlowRow]) -> list[float]:
        """Returns the losses, for the Trainer's `predict`."""
        return [row.loss for row in records]


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
