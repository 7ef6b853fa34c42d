"""What models take: the arguments of every `forward`, each named once."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeVar, get_args

from torch import Tensor
from transformers.cache_utils import Cache

from ..configuration import MODALITIES
from .outputs import LayerChoice

Forward = TypeVar("Forward", bound=Callable[..., Any])


class TextInputs(TypedDict, total=False):
    """Of the text tower, or of a decoder alone."""

    input_ids: Tensor | None
    attention_mask: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor | None
    inputs_embeds: Tensor | None


class ImageInputs(TypedDict, total=False):
    """Of the image tower."""

    pixel_values: Tensor | None
    image_present: Tensor | None
    image_indices: Tensor | None


class AudioInputs(TypedDict, total=False):
    """Of the audio tower."""

    input_features: Tensor | None
    input_features_mask: Tensor | None
    input_values: Tensor | None
    input_values_mask: Tensor | None
    audio_present: Tensor | None


class VideoInputs(TypedDict, total=False):
    """Of the video tower."""

    pixel_values_videos: Tensor | None
    pixel_values_videos_mask: Tensor | None
    video_present: Tensor | None


class OutputOptions(TypedDict, total=False):
    """What the output holds besides."""

    output_attentions: bool | None
    output_hidden_states: LayerChoice | None


class EncoderInputs(TextInputs, ImageInputs, AudioInputs, VideoInputs, OutputOptions, total=False):
    """Of every class: any mix of modalities."""

    encoder_outputs: Mapping[str, Any] | None


class DocumentInputs(TypedDict, total=False):
    """Of the second input of a modality, in retrieval."""

    document_input_ids: Tensor | None
    document_attention_mask: Tensor | None
    document_token_type_ids: Tensor | None
    document_position_ids: Tensor | None
    document_pixel_values: Tensor | None
    document_image_present: Tensor | None
    document_image_indices: Tensor | None
    document_input_features: Tensor | None
    document_input_features_mask: Tensor | None
    document_input_values: Tensor | None
    document_input_values_mask: Tensor | None
    document_audio_present: Tensor | None


class NegativeInputs(TypedDict, total=False):
    """Of hard negatives, in retrieval: (batch, negatives, length) each."""

    negative_input_ids: Tensor | None
    negative_attention_mask: Tensor | None
    negative_token_type_ids: Tensor | None


class RetrievalInputs(EncoderInputs, DocumentInputs, NegativeInputs, total=False):
    """Of `PlaitForRetrieval`."""


class CacheInputs(TypedDict, total=False):
    """Of a decoder that goes on."""

    past_key_values: Cache | None
    use_cache: bool | None


class DecoderInputs(TypedDict, total=False):
    """Of a decoder that reads a context."""

    decoder_input_ids: Tensor | None
    decoder_attention_mask: Tensor | None
    decoder_position_ids: Tensor | None
    decoder_inputs_embeds: Tensor | None


class ModelInputs(EncoderInputs, DecoderInputs, CacheInputs, total=False):
    """Of `PlaitModel`."""


class LossOptions(TypedDict, total=False):
    """How a loss is computed. A signature does not spell these out: the Trainer takes every argument with "label" in
    its name for labels, and computes no loss for a batch that lacks one of them."""

    shift_labels: Tensor | None
    label_smoothing: float


class CausalLMInputs(EncoderInputs, CacheInputs, LossOptions, total=False):
    """Of a causal language model."""


class ConditionalGenerationInputs(ModelInputs, LossOptions, total=False):
    """Of conditional generation."""


class QuestionAnsweringInputs(EncoderInputs, LossOptions, total=False):
    """Of question answering."""


# the arguments of each modality
MODALITY_INPUTS = {
    modality: tuple(fields.__annotations__)
    for modality, fields in zip(MODALITIES, (TextInputs, ImageInputs, AudioInputs, VideoInputs), strict=True)
}


def split_by_modality(inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The inputs of each tower, None for those that were not given."""
    return {modality: {name: inputs.get(name) for name in names} for modality, names in MODALITY_INPUTS.items()}


def expand_signature(forward: Forward) -> Forward:
    """A method whose `**inputs: Unpack[SomeTypedDict]` stand in its signature by name, before its own arguments: the
    Trainer drops the columns, and `generate` refuses the arguments, that a signature does not name. They may be given
    by place; any other name is a TypeError.
    """
    *own, inputs = inspect.signature(forward).parameters.values()
    (fields,) = get_args(inputs.annotation)
    hints = {name: hint for name, hint in fields.__annotations__.items() if name not in LossOptions.__annotations__}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    spelled = [inspect.Parameter(name, kind, default=None, annotation=hint) for name, hint in hints.items()]
    places, known = tuple(hints), frozenset(fields.__annotations__) | {parameter.name for parameter in own}

    @functools.wraps(forward)
    def wrapper(self: Any, *given: Any, **named: Any) -> Any:
        if len(given) > len(places):
            raise TypeError(f"{type(self).__name__} takes {len(places)} arguments by place, and got {len(given)}")
        for name in named:
            if name not in known or name in places[: len(given)]:
                problem = "more than once" if name in known else "which it does not have"
                raise TypeError(f"{type(self).__name__} got the argument {name!r}, {problem}")
        return forward(self, **dict(zip(places, given, strict=False)), **named)

    hidden = len(places) < len(fields.__annotations__)
    parameters = [own[0], *spelled, *own[1:], *([inputs] if hidden else [])]
    shown: Any = wrapper
    shown.__signature__ = inspect.signature(forward).replace(parameters=parameters)
    return shown
