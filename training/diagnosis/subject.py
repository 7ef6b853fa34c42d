"""What is examined: a recipe with its data and, once they are built, its processor, model and trainer; of a recipe of
several tasks each task, with the body that they share."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.loading import DataSplits
from ..multitask.train import (
    TaskSetup,
    build_multitask_model,
    build_multitask_trainer,
    build_shared_processor,
    build_task_run,
    set_up_task,
)
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.multitask import build_task_recipes
from ..recipes.schema import Recipe
from ..runs.assembly import build_arguments, build_collator
from ..runs.train import assemble_run, read_training_data
from ..tasks.base import Task
from ..tasks.collator import PlaitDataCollator
from ..tasks.registry import find_task
from ..trainer.trainer import PlaitTrainer


@dataclass
class Subject:
    """A task of a recipe, as far as its data are read.

    name: of the task among several, else empty; data: the splits before the task prepares them; cached: modalities
    whose frozen towers run once, before training.
    """

    name: str
    recipe: Recipe
    task: Task
    args: PlaitTrainingArguments
    data: DataSplits
    cached: tuple[str, ...] = ()

    @property
    def train(self) -> Any:
        """The training rows."""
        return self.data.train


@dataclass
class BuiltSubject(Subject):
    """A task with all that its training would begin with. model: with its head; trained: the module that the trainer
    trains (adapters around the model, or the model of several tasks); rows: the splits as the collator takes them;
    unreadable: numbers of training rows that were found unreadable, which no later check uses."""

    processor: PlaitProcessor = None  # pyright: ignore[reportAssignmentType]
    model: PlaitPreTrainedModel = None  # pyright: ignore[reportAssignmentType]
    trained: nn.Module = None  # pyright: ignore[reportAssignmentType]
    collator: PlaitDataCollator = None  # pyright: ignore[reportAssignmentType]
    trainer: PlaitTrainer = None  # pyright: ignore[reportAssignmentType]
    rows: DataSplits = None  # pyright: ignore[reportAssignmentType]
    unreadable: set[int] = field(default_factory=set)

    def drop_unreadable(self, numbers: Iterable[int]) -> list[int]:
        """Returns the numbers of prepared training rows without those that were found unreadable."""
        is_same = len(self.rows.train or []) == len(self.train)
        return [number for number in numbers if not is_same or number not in self.unreadable]


def copy_recipe(recipe: Recipe) -> Recipe:
    """Returns the recipe as it is examined: unreadable rows are found by the examination itself."""
    examined = copy.copy(recipe)  # dataclasses.replace would forget which values are those of a shipped recipe
    examined.data = replace(recipe.data, on_error="stop")
    return examined


def build_quiet_arguments(recipe: Recipe, folder: Path) -> PlaitTrainingArguments:
    """Returns the recipe's training arguments, but without anything that leaves the folder: no loggers, no Hub."""
    args = build_arguments(recipe, folder)
    args.report_to, args.push_to_hub = [], False
    return args


def read_subjects(recipe: Recipe, folder: Path) -> list[Subject]:
    """Reads the data of a recipe, or of each of its tasks.

    Raises RecipeError for arguments or data that `plait train` refuses.
    """
    args = build_quiet_arguments(recipe, folder)
    cached = tuple(args.cache_features)
    args.cache_features = []  # else the towers would run over all rows now
    if recipe.tasks:
        setups = {name: set_up_task(name, own) for name, own in build_task_recipes(recipe).items()}
        return [Subject(name, setup.recipe, setup.task, args, setup.data, cached) for name, setup in setups.items()]
    task = find_task(recipe.task)
    return [Subject("", recipe, task, args, read_training_data(recipe, task), cached)]


@contextmanager
def build_subjects(recipe: Recipe, subjects: list[Subject], folder: Path) -> Iterator[list[BuiltSubject]]:
    """Builds the model of a recipe with all that its training would begin with, in a folder of its own.

    Raises RecipeError for what `plait train` refuses.
    """
    args = subjects[0].args
    set_seed(args.seed)
    if recipe.tasks:
        with build_task_subjects(recipe, subjects, folder) as built:
            yield built
        return
    run = assemble_run(copy_recipe(recipe), subjects[0].task, folder, args, subjects[0].data, verbose=False)
    parts: dict[str, Any] = {"processor": run.processor, "model": run.model, "trainer": run.trainer, "rows": run.data}
    yield [BuiltSubject(**vars(subjects[0]), **parts, trained=run.trainer.model, collator=get_collator(run.trainer))]


@contextmanager
def build_task_subjects(recipe: Recipe, subjects: list[Subject], folder: Path) -> Iterator[list[BuiltSubject]]:
    """Builds the model of several tasks; the tasks share its body."""
    args = subjects[0].args
    setups = {own.name: TaskSetup(own.recipe, own.task, own.data) for own in subjects}
    processor = build_shared_processor(recipe, setups, folder, args)
    model = build_multitask_model(recipe, setups, processor, verbose=False)
    parts = {name: build_task_run(name, setup, model, processor, folder) for name, setup in setups.items()}
    trainer = build_multitask_trainer(recipe, args, model, parts, processor)
    yield [
        BuiltSubject(
            **vars(own),
            processor=processor,
            model=parts[own.name].model,
            trained=model,
            collator=build_collator(own.recipe, own.task, processor, own.data.labels),
            trainer=trainer,
            rows=parts[own.name].data,
        )
        for own in subjects
    ]


def get_collator(trainer: PlaitTrainer) -> PlaitDataCollator:
    """Returns the collator of a run's trainer."""
    collator: Any = trainer.data_collator
    return collator


@contextmanager
def attach_model(subject: BuiltSubject) -> Iterator[PlaitPreTrainedModel]:
    """Yields the whole model of a task: among several, with the shared body among its modules."""
    if not subject.name:
        yield subject.model
        return
    several: Any = subject.trained
    with several.attach_body(subject.name) as whole:
        yield whole
