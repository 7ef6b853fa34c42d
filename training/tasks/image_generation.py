"""The task of image generation: text, or any other modality, to an image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from huggingface_hub.dataclasses import strict
from transformers import TrainerCallback

from ...configuration import MODALITIES, PlaitDenoiserConfig
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.composition.autoencoder import read_autoencoder_config
from ...modeling.diffusion.guidance import EVERYWHERE, check_interval
from ...modeling.diffusion.images import to_pil_images
from ...modeling.tasks.image_generation import PlaitForImageGeneration
from ...processing import PlaitProcessor
from ...processing.target_images import build_target_processor
from ..data.labels import LabelSpec
from ..data.media import TARGET_IMAGE, Row
from ..data.row_encoder import RowEncoder
from ..metrics.image_generation import FlowMetrics
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import MEDIA_ROLES, TEXT_ROLES, Settings, Task
from .buckets import check_buckets, choose_batch_size, read_buckets
from .image_grids import ImageGrids, draw_images, identify_row, name_image

if TYPE_CHECKING:
    from datasets import Dataset

# of a row, set in training: whether its target image is mirrored; its height and width, None for the processor's
FLIP, SIZE = "flip", "size"


@strict
@dataclass
class ImageGenerationSettings(Settings):
    """How a denoiser is trained and looked at.

    flip: mirror half of the target images in training, at random; only where left and right mean nothing.
    standardize_rows: number of training rows, at random, by whose conditions the model's standardization is set before
        the first step, unless the model has one already (0: never).
    prompts: texts to draw an image of at every evaluation (default: the conditions of the first `grid_images` rows).
    grid_images: the number of images in the grid that is drawn at every evaluation (0: no grid).
    guidance_scale, guidance_interval, num_inference_steps: of the images that are drawn, as in `generate_images`.
    image_folder: where predicted images are written.
    buckets: sizes [height, width] of several aspect ratios: a training image has that of the nearest, a batch has one;
        evaluation has the model's own size.
    """

    flip: bool = False
    standardize_rows: int = 4096
    prompts: list[str] | None = None
    grid_images: int = 8
    guidance_scale: float | int | None = None
    guidance_interval: list[float] | None = None
    num_inference_steps: int = 20
    image_folder: str = "generated"
    buckets: list[list[int]] | None = None

    @property
    def drawing(self) -> dict[str, Any]:
        """The arguments of `generate_images`."""
        options = {"guidance_scale": self.guidance_scale, "num_inference_steps": self.num_inference_steps}
        return options if self.guidance_interval is None else {**options, "guidance_interval": self.guidance_interval}


class ImageGeneration(Task):
    """Image generation: the column `target_image` from `text` and other modalities, any of which a row may lack."""

    name: ClassVar[str] = "image_generation"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForImageGeneration
    auto_class: ClassVar[str] = "PlaitForImageGeneration"  # there is no auto class of this task
    roles: ClassVar[tuple[str, ...]] = (*TEXT_ROLES, *MEDIA_ROLES, TARGET_IMAGE)
    target_columns: ClassVar[tuple[str, ...]] = (TARGET_IMAGE,)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("text", *MEDIA_ROLES), (TARGET_IMAGE,))
    settings: ClassVar[type[Settings]] = ImageGenerationSettings
    prompt_columns: ClassVar[dict[str, str]] = {name: name for name in MODALITIES}
    has_row_scores: ClassVar[bool] = True

    def check_recipe(self, recipe: Recipe) -> None:
        """Raises RecipeError for wrong settings."""
        super().check_recipe(recipe)
        settings: ImageGenerationSettings = self.build_settings(recipe.settings)
        read_buckets(settings.buckets)
        least = {"standardize_rows": 0, "grid_images": 0, "num_inference_steps": 1}
        for name, low in least.items():
            if getattr(settings, name) < low:
                raise RecipeError(f"settings.{name} is {getattr(settings, name)}: expected at least {low}")
        if settings.prompts is not None and recipe.model.from_pretrained is None and recipe.model.text is None:
            raise RecipeError("settings.prompts are texts, but the model reads none: add model.text, or leave them out")

    def finish_processor(self, processor: PlaitProcessor, recipe: Recipe) -> None:
        """Adds the part for target images to a new processor, with the size of the recipe's images."""
        if processor.find_part("target_image_processor") is not None or recipe.model.from_pretrained is not None:
            return
        size, channels = find_target_shape(recipe)
        processor.target_image_processor = build_target_processor(cast("Any", size), channels)

    def check_model(self, model: PlaitPreTrainedModel, processor: PlaitProcessor) -> None:
        """Raises RecipeError for a processor whose target images have another size or number of channels than those of
        the model."""
        super().check_model(model, processor)
        shape = model.config.image_shape
        part: Any = processor.require_target_processor()
        given = (part.crop_size["height"], part.crop_size["width"])
        if given != (shape.height, shape.width) or len(part.image_mean) != shape.channels:
            raise RecipeError(
                f"processor.target_image_size is {list(given)} with {len(part.image_mean)} channels, but the model "
                f"generates {[shape.height, shape.width]} with {shape.channels}: change "
                "model.options.image_size, or the processor's target_image_size and target_channels"
            )

    def check_training(self, data: "Dataset", args: PlaitTrainingArguments, recipe: Recipe) -> None:
        """Raises RecipeError for fewer rows than a batch has."""
        check_image_count(data, args)

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Returns the data, once their target images are known to be there.

        Raises RecipeError for rows without one.
        """
        if TARGET_IMAGE in data.column_names:
            check_target_images(data, split)
        return data

    def build_callbacks(self, recipe: Recipe, model: PlaitPreTrainedModel) -> list[TrainerCallback]:
        """Builds the callback that draws a grid of images at every evaluation.

        Raises RecipeError for guidance of a model that learns no image without its condition.
        """
        settings: ImageGenerationSettings = self.build_settings(recipe.settings)
        check_buckets(read_buckets(settings.buckets), model.config.image_shape)
        if not settings.grid_images and not settings.prompts:
            return []
        check_guidance(settings, model)
        rows = None if settings.prompts is None else [{"text": text} for text in settings.prompts]
        return [ImageGrids(rows, settings, recipe.max_length, recipe.seed, recipe.output_dir)]

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `target_pixel_values` (batch, channels, height, width) and the inputs of the condition."""
        size = rows[0].get(SIZE)
        targets = collator.encode_target_images(rows, size)["target_pixel_values"]
        flipped = torch.tensor([bool(row.get(FLIP)) for row in rows])
        targets = torch.where(flipped[:, None, None, None], targets.flip(-1), targets)
        return {"target_pixel_values": targets, **collator.encode_inputs(rows)}

    def sample_rows(self, collator: RowEncoder, rows: Sequence[Row]) -> Sequence[Row]:
        """Returns the rows with a random choice, with the setting `flip`, of whether the target image is mirrored, and
        with `buckets` the size of the batch."""
        settings: ImageGenerationSettings = collator.settings
        size = choose_batch_size(rows, read_buckets(settings.buckets))
        flips = [settings.flip and collator.draw(2, *identify_row(row)) == 1 for row in rows]
        return [{**row, FLIP: flip, SIZE: size} for row, flip in zip(rows, flips, strict=True)]

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `inputs` of the model with the target images."""
        return {"inputs": self.build_batch(collator, rows)}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> FlowMetrics:
        """Builds the loss and the error of the predicted images."""
        return FlowMetrics(names)

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields `generated_image` for each row: the name of a PNG file in the folder of the setting `image_folder`."""
        folder = Path(collator.settings.image_folder)
        folder.mkdir(parents=True, exist_ok=True)
        for row, image in zip(rows, to_pil_images(draw_images(model, collator, rows)), strict=True):
            path = folder / f"{name_image(row, image)}.png"
            image.save(path)
            yield {"generated_image": str(path)}

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "text-to-image" for a model with a text tower, else "image-to-image" or
        "unconditional-image-generation"."""
        known = {"text": "text-to-image", "image": "image-to-image"}
        return next((name for part, name in known.items() if part in modalities), "unconditional-image-generation")


def find_target_shape(recipe: Recipe) -> tuple[Any, int]:
    """Returns the size in pixels and the channels of the images that a recipe's new model learns: those of its denoiser
    (among the model's options or in its `denoiser_config`), with an autoencoder the option `image_size` and the
    autoencoder's channels."""
    options = recipe.model.options
    if options.get("autoencoder") is not None:
        content = read_autoencoder_config(options["autoencoder"], options)
        return options.get("image_size", PlaitDenoiserConfig.image_size), content.num_channels
    fields = {**options, **(options.get("denoiser_config") or {})}
    size = fields.get("image_size", PlaitDenoiserConfig.image_size)
    return size, fields.get("num_channels", PlaitDenoiserConfig.num_channels)


def check_image_count(data: "Dataset", args: PlaitTrainingArguments) -> None:
    """Raises RecipeError for fewer rows than a batch has."""
    rows = args.train_batch_size * args.world_size
    if len(data) < rows:
        raise RecipeError(
            f"training: {len(data)} images are fewer than a batch of {rows}: lower per_device_train_batch_size "
            f"({args.train_batch_size})"
        )


def check_target_images(data: "Dataset", split: str) -> None:
    """Raises RecipeError for rows whose target image is missing."""
    columns: Any = data.select_columns([TARGET_IMAGE]).with_format("arrow")
    missing: list[int] = []
    for number, table in enumerate(columns.iter(batch_size=1000)):
        absent = table.column(TARGET_IMAGE).is_null().to_pylist()
        missing += [1000 * number + row for row, is_absent in enumerate(absent) if is_absent]
    if missing:
        raise RecipeError(
            f"data: row {missing[0]} of {split!r} has no target_image ({len(missing)} of {len(data)} rows have none): "
            "remove such rows"
        )


def check_guidance(settings: ImageGenerationSettings, model: PlaitPreTrainedModel) -> None:
    """Raises RecipeError for guidance of a model whose conditions are never hidden in training, or at wrong times."""
    denoiser: Any = model.config.denoiser_config
    try:
        check_interval(EVERYWHERE if settings.guidance_interval is None else settings.guidance_interval)
    except ValueError as error:
        raise RecipeError(f"settings.{error}") from error
    if settings.guidance_scale not in (None, 1) and not denoiser.hides_conditions:
        raise RecipeError(
            f"settings.guidance_scale is {settings.guidance_scale}, which needs a model that is also trained without "
            f"conditions, but condition_dropout is {denoiser.condition_dropout}: set it to 0.1 in "
            "model.options.denoiser_config, or settings.guidance_scale to 1"
        )
