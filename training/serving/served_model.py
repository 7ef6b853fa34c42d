"""A model that answers the requests of a page: loaded once, with what its folder says about it."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from PIL import Image
from torch.nn import Module

from ...configuration.json_files import read_json_file
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.media import Row, name_data_rows
from ..explanations.explain import explain
from ..recipes.schema import Recipe
from ..runs.assembly import build_collator
from ..runs.folder import METRICS_FILE
from ..runs.generation_settings import use_generation_settings
from ..runs.loading import load_model, load_model_recipe
from ..tasks.base import move_to_device
from ..tasks.registry import find_task
from .batching import RequestBatcher
from .fields import build_row, find_fields, select_present
from .settings import ServeSettings

MODEL_CARD = "README.md"
IMAGE_KEYS = ("generated_image", "reconstructed_image")  # of answers that name a file


class ServedModel:
    """A model with its processor and recipe, which answers rows of several threads in batches.

    Args:
        reference: a run folder, a model folder or a Hub id.
        settings: the limits of a request.
        overrides: changes to the run's recipe, by dotted key.
        name: shown over the page; default: the folder's name, or the Hub id.

    Raises RecipeError for a model that cannot be loaded.
    """

    def __init__(
        self,
        reference: str,
        settings: ServeSettings | None = None,
        overrides: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        folder = Path(reference).expanduser()
        self.reference, self.settings = reference, settings or ServeSettings()
        self.name = name or (folder.resolve().name if folder.is_dir() else reference)
        self.recipe: Recipe = load_model_recipe(reference, overrides or {})
        self.task = find_task(self.recipe.task)
        model, processor = load_model(reference, self.recipe, self.task)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: PlaitPreTrainedModel = cast("PlaitPreTrainedModel", Module.to(model, device).eval())
        self.processor: PlaitProcessor = processor
        self.pictures = TemporaryDirectory(prefix="plait-serve-")  # of tasks whose answers are files
        self.collator = self.build_collator()
        self.fields = find_fields(self.task, self.model, self.recipe.data)
        self.metrics = read_json_file(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else {}
        self.card = (folder / MODEL_CARD).read_text(encoding="utf-8") if (folder / MODEL_CARD).is_file() else ""
        self.batcher = RequestBatcher(self.answer_rows, self.settings.batch_size)

    def build_collator(self) -> Any:
        """Builds the collator of the run's recipe; a task that writes images writes them to a folder of the server."""
        collator = build_collator(self.recipe, self.task, self.processor, None)
        if hasattr(collator.settings, "image_folder"):
            collator.settings.image_folder = self.pictures.name
        return collator

    def build_row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the row of filled-in fields; see `fields.build_row`."""
        return build_row(self.fields, values, self.recipe.data, self.settings)

    def predict(self, row: Row, **options: Any) -> dict[str, Any]:
        """Returns the answer of a row, as `plait predict` prints it; requests of the same time share a forward.

        options: settings of generation (`max_new_tokens`, ...), or for generated images `seed` and the arguments of
        `generate_images`. Raises ValueError, TypeError or OSError for an input that cannot be read.
        """
        return self.batcher.submit(row, tuple(sorted(options.items())))

    def answer_rows(self, rows: Sequence[Row], options: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns the answers of rows in one forward; the caller holds `batcher.working`."""
        if self.task.name == "image_generation":
            return [{"image": image} for image in self.draw(rows, options)]
        settings = use_generation_settings(self.model, options) if self.task.generates else nullcontext()
        with settings, name_data_rows(rows):
            answers = list(self.task.predict_rows(self.model, self.collator, rows))
        return [{name: open_answer(name, value) for name, value in answer.items()} for answer in answers]

    def draw(self, rows: Sequence[Row], options: dict[str, Any]) -> list[Image.Image]:
        """Returns the images of rows, each from the seed in its column "seed"."""
        sampler: Any = self.model
        conditions = [{name: value for name, value in row.items() if name != "seed"} for row in rows]
        generators = [torch.Generator().manual_seed(int(row["seed"])) for row in rows]
        inputs = move_to_device(self.collator.encode_inputs(conditions), self.model) if conditions[0] else {}
        return sampler.generate_images(**inputs, processor=self.processor, generator=generators, **options)

    def explain(self, row: Row, **options: Any) -> Any:
        """Returns the explanation of a row (`RowExplanation`), with the options of `plait.explain`; it is computed
        while no batch is."""
        given = select_present(row)
        with self.batcher.working:
            return explain(self.model, self.processor, given, max_length=self.recipe.max_length, **options)


def open_answer(name: str, value: Any) -> Any:
    """Returns a value of an answer; a file of an image as the image."""
    if name not in IMAGE_KEYS:
        return value
    with Image.open(value) as image:
        image.load()
        return image
