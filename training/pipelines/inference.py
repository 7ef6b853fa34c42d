"""A model with its processor that answers calls."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from threading import RLock
from typing import Any

from ...configuration.modalities import MEDIA
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.media import Row
from ..recipes.schema import Recipe
from ..runs.folder import RUN_FOLDER
from ..runs.generation_settings import use_generation_settings
from ..runs.image_output import find_drawing_options, generate_batches, join_batches
from ..tasks.base import Task
from ..tasks.collator import PlaitDataCollator
from ..tasks.dialogue import Dialogue
from ..tasks.registry import find_task
from .calls import build_call_rows, has_list
from .specs import PIPELINES


class InferencePipeline:
    """A model with its processor, called with single inputs or lists of them.

    Arguments of a call: the pipeline's columns by position or by name, a list for several rows (a single value goes
    with all); `batch_size`; the task's settings (`doc_stride`, ...); generation settings (`num_beams`,
    `max_new_tokens`, ...). Task settings and the length of texts default to those of the run's recipe, if the model is
    from a run of this task.
    """

    def __init__(self, name: str, model: PlaitPreTrainedModel, processor: PlaitProcessor, **options: Any) -> None:
        self.spec = PIPELINES[name]
        self.model, self.processor, self.options = model.eval(), processor, options
        fitting = [task for task in map(find_task, self.spec.tasks) if isinstance(model, task.model_class)]
        if not fitting:
            wanted = " or ".join(dict.fromkeys(find_task(task).model_class.__name__ for task in self.spec.tasks))
            raise ValueError(f"the pipeline {name!r} needs a {wanted}, and the model is a {type(model).__name__}")
        for column in self.spec.columns.values():
            if column in MEDIA and column not in self.model.config.towers:
                read = ", ".join(self.model.config.towers) or "text"
                raise ValueError(f"the pipeline {name!r} needs a model that reads {column}, and this one reads {read}")
        self.task = fitting[0]
        self.run = find_run_recipe(model.name_or_path or "")
        self.lock = RLock()  # a call's generation settings are set on the model, which threads share

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Returns a list with an answer (a dict) for each row. Question answering and speech recognition return the
        dict alone for a single input; question answering with `top_k` above 1 a list of at most top_k answers;
        text-to-image what `generate_images` returns, with its options."""
        given = self.collect_arguments(inputs, options)
        rows = build_call_rows(self.spec, given)
        found = self.predict_rows(rows, {**self.options, **options}) if rows else []
        if self.spec.alone:
            return found if has_list(self.spec, given) else found[0]
        return [[answer] for answer in found] if self.spec.nested and has_list(self.spec, given) else found

    def collect_arguments(self, inputs: Sequence[Any], options: dict[str, Any]) -> dict[str, Any]:
        """Returns the inputs of a call by the names of its arguments, and takes them out of its options."""
        names = [*self.spec.columns, *self.spec.optional]
        return dict(zip(names, inputs, strict=False)) | {name: options.pop(name) for name in names if name in options}

    def predict_rows(self, rows: Sequence[Row], options: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns one answer per row, under the pipeline's key."""
        chats = isinstance(self.task, Dialogue)
        task = find_task("dialogue") if "messages" in rows[0] and not chats else self.task
        size = options.pop("batch_size", 8)
        if task.name == "image_generation":
            return self.generate_images(rows, size, options)
        if options.get("return_timestamps"):
            raise ValueError(
                "a pipeline returns text alone: for timestamps, call the model's generate(return_timestamps=True)"
            )
        run = self.run if self.run is not None and self.run.task == task.name else Recipe(task=task.name)
        given = {field.name: options.pop(field.name) for field in fields(task.settings) if field.name in options}
        settings = {**run.settings, **given}
        length = run.max_length if task.generates else options.pop("max_length", run.max_length)
        collator = PlaitDataCollator(self.processor, task=task, settings=settings, max_length=length)
        if options and not task.generates:
            known = ", ".join(field.name for field in fields(task.settings))
            raise TypeError(f"unknown option {', '.join(options)}: the options are batch_size, max_length, {known}")
        with self.lock, use_generation_settings(self.model, options) if task.generates else nullcontext():
            batches = (rows[start : start + size] for start in range(0, len(rows), size))
            found = [
                answer
                for batch in batches
                for answer in task.predict_rows(self.model, collator, adapt_rows(task, batch))
            ]
        return [self.format_answer(row, answer) for row, answer in zip(rows, found, strict=True)]

    def generate_images(self, rows: Sequence[Row], batch_size: int, options: dict[str, Any]) -> Any:
        """Returns the images of all rows; the guidance and the steps default to those of the run's recipe."""
        run = self.run if self.run is not None and self.run.task == self.task.name else Recipe(task=self.task.name)
        length = options.pop("max_length", run.max_length)
        collator = PlaitDataCollator(self.processor, task=self.task, settings=run.settings, max_length=length)
        options = {**find_drawing_options(run), **options}
        return join_batches(list(generate_batches(self.model, collator, rows, batch_size, options)))

    def format_answer(self, row: Row, answer: dict[str, Any]) -> dict[str, Any]:
        """Returns an answer in the form of transformers' pipeline of this name."""
        if "label" in answer:
            return {"answer": answer["label"], "score": answer["score"]}
        if self.spec.task == "question_answering":
            return answer.get("candidates", answer)
        text = answer["generated_text"]
        if "messages" in row:
            return {self.spec.key: [*row["messages"], {"role": "assistant", "content": text}]}
        return {self.spec.key: row["text"] + text if self.spec.task == "causal_lm" else text}


def adapt_rows(task: Task, rows: Sequence[Row]) -> Sequence[Row]:
    """Returns the rows with the task's columns: dialogue takes a text as the first message of a conversation, and an
    image with it."""
    if not isinstance(task, Dialogue):
        return rows
    return [
        row if "messages" in row else {"prompt" if name == "text" else name: value for name, value in row.items()}
        for row in rows
    ]


def find_run_recipe(reference: str) -> Recipe | None:
    """Returns the recipe of the run in this folder; None for any other model."""
    folder = Path(reference).expanduser()
    return RUN_FOLDER.read_recipe(folder) if reference and RUN_FOLDER.marks(folder) else None
