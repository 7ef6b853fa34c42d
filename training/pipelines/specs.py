"""What each pipeline takes and returns, by name; the names and the forms of answers are those of transformers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForVideoClassification,
    AutoModelForZeroShotImageClassification,
)

from ...modeling.tasks.image_generation import PlaitForImageGeneration


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
        optional: columns that a call may leave out, by the names of its arguments.
        modality: of the only inputs, for pipelines that read one modality.
        template: the text around a label in words, of the pipelines that read labels.
    """

    task: str
    columns: Mapping[str, str]
    key: str
    auto: Any
    nested: bool = False
    alone: bool = False
    others: tuple[str, ...] = ()
    optional: Mapping[str, str] = field(default_factory=dict)
    modality: str | None = None
    template: str = "{}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks whose models fit."""
        return (self.task, *self.others)


PIPELINES = {
    "image-captioning": PipelineSpec(
        "generation",
        {"images": "image"},
        "generated_text",
        AutoModelForImageTextToText,
        nested=True,
        others=("dialogue", "preference"),
    ),
    "visual-question-answering": PipelineSpec(
        "generation",
        {"image": "image", "question": "text"},
        "answer",
        AutoModelForImageTextToText,
        nested=True,
        others=("classification", "dialogue", "preference"),
    ),
    "automatic-speech-recognition": PipelineSpec(
        "generation", {"audio": "audio"}, "text", AutoModelForSpeechSeq2Seq, alone=True
    ),
    "translation": PipelineSpec("generation", {"texts": "text"}, "translation_text", AutoModelForSeq2SeqLM),
    "summarization": PipelineSpec(
        "generation", {"texts": "text"}, "summary_text", AutoModelForSeq2SeqLM, others=("dialogue", "preference")
    ),
    "question-answering": PipelineSpec(
        "question_answering",
        {"question": "question", "context": "context"},
        "answer",
        AutoModelForQuestionAnswering,
        alone=True,
    ),
    "text-generation": PipelineSpec(
        "causal_lm",
        {"texts": "text"},
        "generated_text",
        AutoModelForCausalLM,
        nested=True,
        others=("dialogue", "preference"),
    ),
    "text-classification": PipelineSpec(
        "classification",
        {"text": "text"},
        "label",
        AutoModelForSequenceClassification,
        optional={"text_pair": "text_pair"},
        modality="text",
    ),
    "image-classification": PipelineSpec(
        "classification", {"images": "image"}, "label", AutoModelForImageClassification, modality="image"
    ),
    "audio-classification": PipelineSpec(
        "classification", {"audio": "audio"}, "label", AutoModelForAudioClassification, modality="audio"
    ),
    "video-classification": PipelineSpec(
        "classification", {"videos": "video"}, "label", AutoModelForVideoClassification, modality="video"
    ),
    "zero-shot-classification": PipelineSpec(
        "retrieval",
        {"sequences": "text"},
        "labels",
        AutoModelForZeroShotImageClassification,
        others=("classification",),
        modality="text",
        template="This example is {}.",
    ),
    "zero-shot-image-classification": PipelineSpec(
        "retrieval",
        {"image": "image"},
        "label",
        AutoModelForZeroShotImageClassification,
        modality="image",
        template="This is a photo of {}.",
    ),
    "zero-shot-audio-classification": PipelineSpec(
        "retrieval",
        {"audio": "audio"},
        "label",
        AutoModelForZeroShotImageClassification,
        modality="audio",
        template="This is a sound of {}.",
    ),
    "feature-extraction": PipelineSpec(
        "retrieval", {"inputs": "inputs"}, "vector", AutoModelForZeroShotImageClassification
    ),
    "retrieval": PipelineSpec("retrieval", {"queries": "inputs"}, "score", AutoModelForZeroShotImageClassification),
    "text-to-image": PipelineSpec("image_generation", {"texts": "text"}, "image", PlaitForImageGeneration),
}
