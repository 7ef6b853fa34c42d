"""Pipelines that answer in one call: `plait.pipeline("translation", model=FOLDER)("a dog runs")`.

Importing this module also registers them with transformers' `pipeline` as "plait-translation" and so on: the plain
names are transformers' own, or no longer exist there.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from reprlib import repr as short
from threading import RLock
from typing import Any, ClassVar

import torch
from torch.nn import Module
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    Pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from ...configuration.messages import suggest
from ...configuration.modalities import MEDIA
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.image_generation import PlaitForImageGeneration
from ...modeling.tasks.single_items import is_single_item
from ...processing import PlaitProcessor
from ..data.media import Row
from ..recipes.schema import Recipe
from ..tasks.base import Task
from ..tasks.collator import PlaitDataCollator
from ..tasks.registry import find_task
from .adapters import load_weights
from .building import resolve_reference
from .folder import RUN_FOLDER
from .generation_settings import set_generation
from .image_output import find_drawing_options, generate_batches, join_batches
from .loading import find_default_task


@dataclass(frozen=True)
class PipelineSpec:
    """What one pipeline takes and returns.

    Attributes:
        task: the task in plait.
        columns: the task's columns by the names of the call's arguments.
        key: the key of the answer.
        auto: the Auto class that loads the model.
        nested: for a list of inputs every answer is a list of its own, as in transformers.
        alone: a single input gets its answer alone, not in a list.
        others: further tasks whose models fit.
    """

    task: str
    columns: Mapping[str, str]
    key: str
    auto: Any
    nested: bool = False
    alone: bool = False
    others: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks whose models fit."""
        return (self.task, *self.others)


PIPELINES = {
    "image-captioning": PipelineSpec(
        "generation", {"images": "image"}, "generated_text", AutoModelForImageTextToText, nested=True
    ),
    "visual-question-answering": PipelineSpec(
        "generation",
        {"image": "image", "question": "text"},
        "answer",
        AutoModelForImageTextToText,
        nested=True,
        others=("classification",),
    ),
    "automatic-speech-recognition": PipelineSpec(
        "generation", {"audio": "audio"}, "text", AutoModelForSpeechSeq2Seq, alone=True
    ),
    "translation": PipelineSpec("generation", {"texts": "text"}, "translation_text", AutoModelForSeq2SeqLM),
    "summarization": PipelineSpec(
        "generation", {"texts": "text"}, "summary_text", AutoModelForSeq2SeqLM, others=("dialogue",)
    ),
    "question-answering": PipelineSpec(
        "question_answering",
        {"question": "question", "context": "context"},
        "answer",
        AutoModelForQuestionAnswering,
        alone=True,
    ),
    "text-generation": PipelineSpec(
        "causal_lm", {"texts": "text"}, "generated_text", AutoModelForCausalLM, nested=True, others=("dialogue",)
    ),
    "text-to-image": PipelineSpec("image_generation", {"texts": "text"}, "image", PlaitForImageGeneration),
}


def pipeline(
    task: str,
    model: str | PlaitPreTrainedModel,
    processor: PlaitProcessor | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> "InferencePipeline":
    """Builds a pipeline: `plait.pipeline("image-captioning", model=FOLDER)("dog.jpg")`.

    Args:
        task: a name in PIPELINES.
        model: a run folder, a model folder, a Hub id, or a loaded model (with its processor).
        device: default: the accelerator if there is one, else the CPU.
        options: defaults of every call, as in `InferencePipeline`.

    Raises:
        ValueError: an unknown task, with the nearest; a loaded model without its processor; a model of another class.
    """
    if task not in PIPELINES:
        raise ValueError(f"no pipeline {task!r}{suggest(task, PIPELINES)}")
    loaded: Any = model
    if isinstance(model, str):
        kind, run = PIPELINES[task], find_run_recipe(model)
        own = find_default_task(model) if run is None else run.task
        processor = processor or PlaitProcessor.from_pretrained(resolve_reference(model))
        loaded = load_weights(model, find_task(own if own in kind.others else kind.task))
    if processor is None:
        raise ValueError("a loaded model needs its processor: pipeline(..., model=model, processor=processor)")
    Module.to(loaded, device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
    return InferencePipeline(task, loaded, processor, **options)


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
        self.task = fitting[0]
        self.run = find_run_recipe(model.name_or_path or "")
        self.lock = RLock()  # a call's generation settings are set on the model, which threads share

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Returns a list with an answer (a dict) for each row. Question answering and speech recognition return the
        dict alone for a single input; question answering with `top_k` above 1 a list of at most top_k answers;
        text-to-image what `generate_images` returns, with its options."""
        names = list(self.spec.columns)
        given = dict(zip(names, inputs, strict=False)) | {name: options.pop(name) for name in names if name in options}
        rows = build_call_rows(self.spec, given)
        found = self.predict_rows(rows, {**self.options, **options}) if rows else []
        if self.spec.alone:
            return found if has_list(self.spec, given) else found[0]
        return [[answer] for answer in found] if self.spec.nested and has_list(self.spec, given) else found

    def predict_rows(self, rows: Sequence[Row], options: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns one answer per row, under the pipeline's key."""
        task = find_task("dialogue") if "messages" in rows[0] else self.task
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


def build_call_rows(spec: PipelineSpec, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of a call.

    Raises TypeError for a missing argument, or a text that is not a string; ValueError for lists of different lengths,
    or a row that is None.
    """
    first: Any = next(iter(given.values()), None)
    if is_record(spec, first) or (is_list(first) and len(first) and is_record(spec, first[0])):
        records = [first] if isinstance(first, Mapping) else first
        rows = [{column: record[name] for name, column in spec.columns.items()} for record in records]
    elif is_chat(first):
        return [{"messages": first}]
    elif is_list(first) and len(first) and is_chat(first[0]):
        return [{"messages": messages} for messages in first]
    else:
        rows = combine_columns(spec, given)
    check_call_rows(spec, rows)
    return rows


def combine_columns(spec: PipelineSpec, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of arguments that are lists or single items; a single item goes with all rows."""
    missing = [name for name in spec.columns if given.get(name) is None]
    if missing:
        raise TypeError(f"missing {', '.join(missing)}: pass {', '.join(spec.columns)}")
    values = {
        spec.columns[name]: [value] if is_single_argument(spec, name, value) else list(value)
        for name, value in given.items()
    }
    count = max(map(len, values.values()))
    if any(len(value) not in (1, count) for value in values.values()):
        raise ValueError(
            f"lists of different lengths: { ({name: len(value) for name, value in values.items()}) }: give one length"
        )
    columns = {name: value * (count // len(value)) for name, value in values.items()} if count else {}
    return [{name: value[row] for name, value in columns.items()} for row in range(count)]


def check_call_rows(spec: PipelineSpec, rows: Sequence[Mapping[str, Any]]) -> None:
    """Checks that each row has something to read.

    Raises TypeError for a text that is not a string, ValueError for a value that is None.
    """
    for number, row in enumerate(rows):
        for name, column in spec.columns.items():
            value = row[column]
            if value is None:
                raise ValueError(f"{name}, row {number}: it is None: leave this row out")
            if column not in MEDIA and not isinstance(value, str):
                raise TypeError(f"{name}, row {number}: {short(value)} ({type(value).__name__}) is not a string")


def adapt_rows(task: Task, rows: Sequence[Row]) -> Sequence[Row]:
    """Returns the rows with the task's columns: dialogue takes a text as the first message of a conversation."""
    if task.name != "dialogue":
        return rows
    return [row if "messages" in row else {"prompt": row["text"]} for row in rows]


def find_run_recipe(reference: str) -> Recipe | None:
    """Returns the recipe of the run in this folder; None for any other model."""
    folder = Path(reference).expanduser()
    return RUN_FOLDER.read_recipe(folder) if reference and RUN_FOLDER.marks(folder) else None


def has_list(spec: PipelineSpec, given: Mapping[str, Any]) -> bool:
    """Returns whether a call has a list of inputs; a conversation or a record is a single input."""
    return any(
        not (is_chat(value) or is_record(spec, value) or is_single_argument(spec, name, value))
        for name, value in given.items()
    )


def is_single_argument(spec: PipelineSpec, name: str, value: Any) -> bool:
    """Returns whether an argument of a call is one text, image or audio clip, not a list."""
    column = spec.columns[name]
    return is_single_item(value, column if column in MEDIA else "text")


def is_list(value: Any) -> bool:
    """Returns whether a value is a list of inputs, as a column of a data set is, and not a single text or image."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def is_record(spec: PipelineSpec, value: Any) -> bool:
    """Returns whether a value is a dict with all arguments of the pipeline."""
    return isinstance(value, Mapping) and set(spec.columns) <= value.keys()


def is_chat(value: Any) -> bool:
    """Returns whether a value is a conversation: a list of messages with a role."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and "role" in value[0]


@contextmanager
def use_generation_settings(model: PlaitPreTrainedModel, options: Mapping[str, Any]) -> Iterator[None]:
    """Changes the model's generation settings for as long as the context lasts."""
    usual: Any = model.generation_config
    if options:
        model.generation_config = copy.deepcopy(usual)
        set_generation(model, options)
    try:
        yield
    finally:
        model.generation_config = usual


class PlaitPipeline(Pipeline):
    """The class that transformers' `pipeline` builds for the registered names; its calls are those of
    InferencePipeline."""

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    kind: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model: Any = self.model
        processor: Any = self.processor
        self.inference = InferencePipeline(self.kind, model, processor)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.inference(*inputs, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, options, {}

    def preprocess(self, input_: Any, **options: Any) -> dict[str, Any]:
        return {"inputs": input_}

    def _forward(self, input_tensors: dict[str, Any], **options: Any) -> Any:
        return self.inference(input_tensors["inputs"], **options)

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        return model_outputs


def register_pipelines() -> None:
    """Registers every pipeline with transformers: `transformers.pipeline("plait-translation", ...)`."""
    for name, kind in PIPELINES.items():
        own = type(
            f"Plait{name.title().replace('-', '')}Pipeline", (PlaitPipeline,), {"kind": name, "__module__": __name__}
        )
        read = set(kind.columns.values())
        modality = "audio" if "audio" in read else "multimodal" if "image" in read else "text"
        PIPELINE_REGISTRY.register_pipeline(f"plait-{name}", own, pt_model=kind.auto, type=modality)


register_pipelines()
