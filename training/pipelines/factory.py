"""Builds pipelines by name, and registers them with transformers' `pipeline` as "plait-translation" and so on: the
plain names are transformers' own, or no longer exist there."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.nn import Module
from transformers import Pipeline, PreTrainedConfig
from transformers.pipelines import PIPELINE_REGISTRY

from ...configuration.messages import suggest
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..recipes.schema import Recipe
from ..runs.adapters import load_weights
from ..runs.building import resolve_reference
from ..runs.loading import find_default_task
from ..tasks.registry import find_task
from .class_scores import ClassificationPipeline
from .inference import InferencePipeline, find_run_recipe
from .specs import PIPELINES, PipelineSpec
from .vectors import FeaturePipeline, RetrievalPipeline
from .zero_shot import ZeroShotPipeline, find_entailment

CLASSES: Mapping[str, type[InferencePipeline]] = {
    **{name: ClassificationPipeline for name in PIPELINES if name.endswith("-classification")},
    **{name: ZeroShotPipeline for name in PIPELINES if name.startswith("zero-shot")},
    "feature-extraction": FeaturePipeline,
    "retrieval": RetrievalPipeline,
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
        processor = processor or PlaitProcessor.from_pretrained(resolve_reference(model))
        loaded = load_weights(model, find_task(choose_task(kind, model, run)))
    if processor is None:
        raise ValueError("a loaded model needs its processor: pipeline(..., model=model, processor=processor)")
    Module.to(loaded, device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
    return CLASSES.get(task, InferencePipeline)(task, loaded, processor, **options)


def choose_task(kind: PipelineSpec, model: str, run: Recipe | None) -> str:
    """Returns the task whose model class loads a folder or a Hub id for a pipeline: of zero-shot-classification the
    classifier only if it has a class "entailment"."""
    own = find_default_task(model) if run is None else run.task
    if own not in kind.others:
        return kind.task
    if kind is PIPELINES["zero-shot-classification"]:
        config, _ = PreTrainedConfig.get_config_dict(resolve_reference(model))
        return own if find_entailment(config.get("id2label") or {}) is not None else kind.task
    return own


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
        self.inference = CLASSES.get(self.kind, InferencePipeline)(self.kind, model, processor)

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
        modality = "audio" if "audio" in read else "multimodal" if read & {"image", "video", "inputs"} else "text"
        PIPELINE_REGISTRY.register_pipeline(f"plait-{name}", own, pt_model=kind.auto, type=modality)


register_pipelines()
