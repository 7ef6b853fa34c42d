"""The task of training an autoencoder of images, on whose latents image generation can work."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.diffusion.images import to_pil_images
from ...modeling.tasks.image_autoencoding import PlaitForImageAutoencoding
from ...processing import PlaitProcessor
from ..data.labels import LabelSpec
from ..data.loading import DataSplits
from ..data.media import TARGET_IMAGE, Row
from ..data.row_encoder import RowEncoder
from ..metrics.image_autoencoding import PSNR, ReconstructionMetrics, compute_psnr
from ..metrics.per_row import RowScore, RowScores
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import Scores, Settings, Task, move_to_device
from .image_generation import check_image_count, check_target_images
from .image_grids import name_image

if TYPE_CHECKING:
    from datasets import Dataset

MEAN_IMAGE = "mean_image"
BASELINE_BATCH = 64


@strict
@dataclass
class ImageAutoencodingSettings(Settings):
    """`image_folder`: where reconstructed images are written."""

    image_folder: str = "reconstructed"


class ImageAutoencoding(Task):
    """Reconstruction of the column `target_image`. The baseline is the mean training image."""

    name: ClassVar[str] = "image_autoencoding"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForImageAutoencoding
    auto_class: ClassVar[str] = "PlaitForImageAutoencoding"  # there is no auto class of this task
    roles: ClassVar[tuple[str, ...]] = (TARGET_IMAGE,)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ((TARGET_IMAGE,),)
    settings: ClassVar[type[Settings]] = ImageAutoencodingSettings
    prompt_columns: ClassVar[dict[str, str]] = {"image": TARGET_IMAGE}
    has_row_scores: ClassVar[bool] = True

    def check_recipe(self, recipe: Recipe) -> None:
        """Raises RecipeError for a new model without the size of its images."""
        super().check_recipe(recipe)
        if recipe.model.from_pretrained is None and "target_image_size" not in recipe.processor:
            raise RecipeError(
                "processor.target_image_size is missing: give the size of the images to learn, in pixels or as "
                "[height, width]"
            )

    def check_model(self, model: PlaitPreTrainedModel, processor: PlaitProcessor) -> None:
        """Raises RecipeError for a processor whose images the model cannot read."""
        super().check_model(model, processor)
        settings: Any = model.config.autoencoder_config
        part: Any = processor.require_target_processor()
        size, channels = (part.crop_size["height"], part.crop_size["width"]), len(part.image_mean)
        if channels != settings.num_channels or any(side % settings.downsampling for side in size):
            raise RecipeError(
                f"processor.target_image_size is {list(size)} with {channels} channels, but the autoencoder reads "
                f"{settings.num_channels} and multiples of {settings.downsampling}: change the processor's "
                "target_image_size or target_channels"
            )

    def check_training(self, data: "Dataset", args: PlaitTrainingArguments, recipe: Recipe) -> None:
        """Raises RecipeError for fewer rows than a batch has."""
        check_image_count(data, args)

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Returns the data, unchanged; raises RecipeError for rows without an image."""
        check_target_images(data, split)
        return data

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `target_pixel_values` (batch, channels, height, width)."""
        return collator.encode_target_images(rows)

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `inputs` of the model."""
        return {"inputs": self.build_batch(collator, rows)}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> "ProcessedMetrics":
        """Builds the loss and the peak signal-to-noise ratio."""
        return ProcessedMetrics(names, processor)

    def measure_baselines(self, metrics: Any, data: DataSplits, split: "Dataset") -> Scores:
        """Computes the peak signal-to-noise ratio of the mean training image."""
        rows = self.score_baseline_rows(metrics, data, split)
        return {name: {PSNR: scores[PSNR].compute()} for name, scores in rows.items()}

    def score_baseline_rows(self, metrics: Any, data: DataSplits, split: "Dataset") -> dict[str, RowScores]:
        """Computes the ratio of the mean training image for each row; nothing without training data."""
        if data.train is None:
            return {}
        encoder = RowEncoder(metrics.processor, None, None, None, 0)
        total: Any = sum(images.double().sum(dim=0) for images in iterate_images(encoder, data.train))
        mean = total / len(data.train)
        ratios = [compute_psnr(mean.expand_as(images), images) for images in iterate_images(encoder, split)]
        values = torch.cat(ratios).numpy()
        return {MEAN_IMAGE: {PSNR: RowScore(values, np.ones_like(values))}}

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields `reconstructed_image` for each row, the name of a PNG file in the folder of the setting
        `image_folder`, and its `psnr`."""
        folder = Path(collator.settings.image_folder)
        folder.mkdir(parents=True, exist_ok=True)
        images = move_to_device(self.build_batch(collator, rows), model)["target_pixel_values"]
        reconstruction = model(target_pixel_values=images).reconstruction
        ratios = compute_psnr(reconstruction, images).tolist()
        for row, image, ratio in zip(rows, to_pil_images(reconstruction), ratios, strict=True):
            path = folder / f"{name_image(row, image)}.png"
            image.save(path)
            yield {"reconstructed_image": str(path), PSNR: ratio}

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "image-to-image"."""
        return "image-to-image"


class ProcessedMetrics(ReconstructionMetrics):
    """ReconstructionMetrics with the processor of the images, for the baseline."""

    def __init__(self, names: Sequence[str], processor: PlaitProcessor) -> None:
        super().__init__(names)
        self.processor = processor


def iterate_images(encoder: RowEncoder, data: "Dataset") -> Iterator[Tensor]:
    """Yields the images of a split in batches, (batch, channels, height, width)."""
    for start in range(0, len(data), BASELINE_BATCH):
        rows = [data[row] for row in range(start, min(start + BASELINE_BATCH, len(data)))]
        yield encoder.encode_target_images(rows)["target_pixel_values"]
