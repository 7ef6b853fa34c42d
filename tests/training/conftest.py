"""Made data for the training tests: coloured squares with questions, and a model small enough for one core."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import set_seed

from plait import PlaitForClassification, PlaitProcessor, PlaitTrainer, PlaitTrainingArguments
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.training.data.labels import SINGLE, LabelSpec, encode_labels
from plait.training.data.loading import DataSplits
from plait.training.data.tokenizer import train_tokenizer
from plait.training.metrics.classification import Metrics
from plait.training.runs.assembly import build_arguments as make_run_arguments
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, build_run, train
from plait.training.tasks.collator import PlaitDataCollator

from .text_recipes import recipe_for

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
QUESTIONS = ("what colour is it ?", "is it red ?", "is it blue ?")


@pytest.fixture(autouse=True, scope="session")
def quiet_and_private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, and the data sets' cache in the tests' own folder."""
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
        yield


def answer(question: str, colour: str) -> str:
    """The right answer."""
    if question.startswith("what"):
        return colour
    return "yes" if colour in question else "no"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A 16-pixel square of each colour, as files."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        Image.new("RGB", (16, 16), colour).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in COLOURS}


@pytest.fixture(scope="session")
def rows(pictures: dict[str, Path]) -> list[dict[str, str]]:
    """Every question about every square."""
    return [
        {"text": question, "image": str(path), "label": answer(question, colour)}
        for colour, path in pictures.items()
        for question in QUESTIONS
    ]


TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
}
IMAGE = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "initializer_range": 0.2,
}
FUSION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
LABELS = ("blue", "green", "no", "red", "yes")


@pytest.fixture(scope="session")
def processor() -> PlaitProcessor:
    """A tokenizer of the questions' words, pictures of 16 pixels."""
    tokenizer = train_tokenizer([*QUESTIONS, *COLOURS], 24, vocab_size=300, min_frequency=1)
    return PlaitProcessor.compose(text=tokenizer, image=PlaitVisionConfig(**IMAGE))


@pytest.fixture
def make_model(processor: PlaitProcessor) -> Callable[..., PlaitPreTrainedModel]:
    """Tiny models of fresh towers, equal for equal arguments."""

    def make(
        model_class: type[PlaitPreTrainedModel] = PlaitForClassification,
        *,
        text: dict[str, Any] | None = None,
        image: dict[str, Any] | None = None,
        **options: Any,
    ) -> PlaitPreTrainedModel:
        set_seed(0)
        vocabulary = {"vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}
        towers = {"text": PlaitTextConfig(**TEXT, **vocabulary, **(text or {}))}
        if model_class is PlaitForClassification:
            towers["image"] = PlaitVisionConfig(**IMAGE, **(image or {}))
            options = {"labels": LABELS, "fusion_config": FUSION, **options}
        return model_class.compose(**towers, verbose=False, **options)

    return make


@pytest.fixture
def data(rows: list[dict[str, str]]) -> DataSplits:
    """The questions about squares, as training and validation split."""
    labels = LabelSpec(LABELS, SINGLE)
    encoded = encode_labels(Dataset.from_list(rows), labels, "train")
    return DataSplits({"train": encoded, "validation": encoded.select([0, 4, 8])}, labels)


@pytest.fixture
def make_arguments(tmp_path: Path) -> Callable[..., PlaitTrainingArguments]:
    """Quiet arguments for plain gradient descent on the CPU."""

    def make(folder: str = "run", **options: Any) -> PlaitTrainingArguments:
        defaults = {
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": "none",
            "save_strategy": "no",
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "learning_rate": 0.1,
            "max_grad_norm": 0.0,
            "num_train_epochs": 1,
            "feature_cache_dir": str(tmp_path / "features"),
        }
        return PlaitTrainingArguments(output_dir=str(tmp_path / folder), **{**defaults, **options})

    return make


@pytest.fixture
def make_trainer(
    make_model: Callable[..., PlaitPreTrainedModel],
    make_arguments: Callable[..., PlaitTrainingArguments],
    processor: PlaitProcessor,
    data: DataSplits,
) -> Callable[..., PlaitTrainer]:
    """A trainer of a tiny model on the questions; keyword arguments are training arguments."""

    def make(
        model: PlaitPreTrainedModel | None = None, trainer: dict[str, Any] | None = None, **options: Any
    ) -> PlaitTrainer:
        given = {
            "data_collator": PlaitDataCollator(processor, data.labels),
            "train_dataset": data.train,
            "eval_dataset": data.validation,
            "compute_metrics": Metrics(["accuracy"], SINGLE),
            **(trainer or {}),
        }
        return PlaitTrainer(make_model() if model is None else model, make_arguments(**options), **given)

    return make


@pytest.fixture
def make_run(tmp_path: Path, pictures: dict[str, Path]) -> Callable[..., TrainingRun]:
    """The run of a tiny recipe (see text_recipes), built and not trained; keyword arguments are training arguments."""

    def make(name: str, **training: Any) -> TrainingRun:
        recipe = build_recipe(recipe_for(name, tmp_path, pictures, **training))
        folder = tmp_path / f"built-{name}"
        folder.mkdir(exist_ok=True)
        return build_run(recipe, folder, make_run_arguments(recipe, folder / "checkpoints"))

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, Path]) -> Callable[[str], Path]:
    """The folder of a trained model of each tiny recipe, made once, only to be read."""

    @cache
    def folder(name: str) -> Path:
        content = recipe_for(name, tmp_path_factory.mktemp(name), pictures)
        if name == "captioning":  # all references, in an order of their own
            content["settings"] = {"references": "each"}
        recipe = build_recipe(content)
        train(recipe, "plait train")
        return Path(str(recipe.output_dir))

    return folder
