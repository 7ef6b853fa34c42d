"""Builds the parts of a run: training arguments, data, processor, model, metrics and collator."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import CONFIG_NAME, logging

from ...configuration.json_files import read_json_mapping
from ...configuration.messages import to_one_line
from ...configuration.modalities import MODALITIES
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.labels import LabelSpec
from ..data.loading import DataSplits, load_data
from ..data.row_encoder import ImageCache, TargetImageCache
from ..metrics.base import StreamedMetrics
from ..metrics.classification import Metrics
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..storage.atomic import UNFINISHED, install_folder
from ..storage.checkpoints import list_checkpoints
from ..streams.recipe_stream import build_stream, load_first_block
from ..tasks.base import Task
from ..tasks.collator import PlaitDataCollator
from .building import build_model, build_processor, read_label_names
from .folder import CHECKPOINTS, PROCESSOR_FILE
from .loggers import check_loggers

if TYPE_CHECKING:
    pass

logger = logging.get_logger(__name__)

LORA_LEARNING_RATE = 2e-4  # the default with adapters
FRESH_LEARNING_RATE = 1e-3  # the default if all pretrained parts are frozen; transformers' 5e-5 is for these parts


def build_arguments(recipe: Recipe, folder: Path) -> PlaitTrainingArguments:
    """Returns the training arguments of a recipe, with a higher default learning rate if no pretrained weights are
    trained. Raises RecipeError for invalid ones."""
    check_loggers(recipe.training.get("report_to"))
    defaults = {"learning_rate": FRESH_LEARNING_RATE} if trains_fresh_parts_alone(recipe) else {}
    if recipe.lora is not None:
        defaults["learning_rate"] = LORA_LEARNING_RATE
    try:
        return PlaitTrainingArguments(output_dir=str(folder), seed=recipe.seed, **{**defaults, **recipe.training})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"training: {to_one_line(error)}") from error


def trains_fresh_parts_alone(recipe: Recipe) -> bool:
    """Returns whether the recipe composes pretrained parts and freezes all of them."""
    model, rates = recipe.model, recipe.training.get("learning_rates")
    frozen = {*model.freeze, *recipe.training.get("frozen", ())}
    frozen |= {part for part, rate in rates.items() if not rate} if isinstance(rates, dict) else set()
    parts = {part: getattr(model, part) for part in (*MODALITIES, "decoder")}
    pretrained = {part for part, source in parts.items() if isinstance(source, str)}
    return model.from_pretrained is None and bool(pretrained) and pretrained <= frozen


def read_data(recipe: Recipe, task: Task) -> DataSplits:
    """Loads the recipe's data and checks that every split has the columns that the task needs."""
    order = read_label_names(recipe.model.from_pretrained) if task.needs_labels and recipe.model.from_pretrained else ()
    if recipe.data.stream is None:
        data = load_data(recipe.data, recipe.seed, needs_labels=task.needs_labels, label_order=order, roles=task.roles)
    else:
        data = load_first_block(recipe.data, recipe.seed, task.needs_labels, task.roles)
    for split, rows in data.splits.items():
        task.check_columns(rows.column_names, split)
    return data


def select_training_rows(recipe: Recipe, task: Task, processor: PlaitProcessor, data: DataSplits) -> Any:
    """Returns the rows to train on: the training split, or the stream of which it is the first block."""
    if recipe.data.stream is None:
        return data.train
    prepare = partial(task.prepare, split="train", processor=processor, recipe=recipe)
    return build_stream(recipe.data, recipe.seed, data.labels, task.roles, prepare)


def prepare_splits(data: DataSplits, task: Task, processor: PlaitProcessor, recipe: Recipe) -> DataSplits:
    """Returns the data with every split prepared for the task's collator, and its number of rows before that."""
    return data._replace(
        splits={split: task.prepare(rows, split, processor, recipe) for split, rows in data.splits.items()},
        rows={split: len(rows) for split, rows in data.splits.items()},
    )


def build_processor_and_model(
    recipe: Recipe, task: Task, folder: Path, args: PlaitTrainingArguments, data: DataSplits, verbose: bool = True
) -> tuple[PlaitProcessor, PlaitPreTrainedModel]:
    """Builds the processor and the model. Raises RecipeError for a model that cannot be built.

    The processor is built once: other processes, and a resumed run, load it (`load_or_build_processor`).
    """
    train: Any = data.train
    try:
        processor = load_or_build_processor(folder, args, lambda: build_processor(recipe, task, train))
        model = build_model(recipe, task, data.labels, processor, verbose=verbose and bool(args.should_log))
        task.check_inputs(train.column_names, model)
        return processor, model
    except RecipeError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"model: {to_one_line(error)}") from error


def load_or_build_processor(
    folder: Path, args: PlaitTrainingArguments, build: Callable[[], PlaitProcessor]
) -> PlaitProcessor:
    """Loads the processor of a run folder; without one (or with a damaged one) that of its last checkpoint, else builds
    it and saves it in the folder."""
    with args.main_process_first(local=False, desc="processor"):
        drop_damaged_config(folder)
        processor = load_whole_processor(folder)
        if processor is None:
            saved = map(load_whole_processor, reversed(list_checkpoints(folder / CHECKPOINTS)))
            processor = next((found for found in saved if found is not None), None) or build()
            staged = folder / f".processor{UNFINISHED}"
            processor.save_pretrained(staged)
            install_folder(staged, folder)
            processor = PlaitProcessor.from_pretrained(folder)
    return processor


def drop_damaged_config(folder: Path) -> None:
    """Removes a config.json that cannot be read, with a warning: the run saves it anew with its model."""
    file = folder / CONFIG_NAME
    if file.exists():
        try:
            read_json_mapping(file)
        except ValueError as error:
            logger.warning(f"{to_one_line(error)}; it is removed, and saved anew with the model")
            file.unlink()


def load_whole_processor(folder: Path) -> PlaitProcessor | None:
    """Loads the processor in a folder; None if there is none, or, with a warning, if it is damaged."""
    if not (folder / PROCESSOR_FILE).exists():
        return None
    try:
        return PlaitProcessor.from_pretrained(folder)
    except Exception as error:  # a damaged file raises anything, and the tokenizers library Exception itself
        logger.warning(f"the processor in {folder} is damaged ({to_one_line(error)}): it is made again")
        return None


def build_metrics(
    recipe: Recipe, task: Task, labels: LabelSpec | None, processor: PlaitProcessor
) -> Metrics | StreamedMetrics:
    """Builds the metrics that the recipe names, or those that the task computes by default."""
    try:
        return task.build_metrics(recipe.metrics, labels, processor, recipe)
    except (ImportError, OSError, ValueError) as error:
        raise RecipeError(f"metrics: {to_one_line(error)}") from error


def build_collator(
    recipe: Recipe, task: Task, processor: PlaitProcessor, labels: LabelSpec | None, image_cache: float = 0.0
) -> PlaitDataCollator:
    """Builds the recipe's collator; image_cache: GiB of processed images that it keeps."""
    collator = PlaitDataCollator(
        processor, labels, task=task, settings=recipe.settings, max_length=recipe.max_length, seed=recipe.seed
    )
    collator.image_cache, collator.target_cache = ImageCache(image_cache), TargetImageCache(image_cache)
    return collator
