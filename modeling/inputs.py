"""The arguments of every model's `forward`, each defined once."""

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
    """Arguments of the text tower, or of a decoder alone."""

    input_ids: Tensor | None
    attention_mask: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor | None
    inputs_embeds: Tensor | None


class ImageInputs(TypedDict, total=False):
    """Arguments of the image tower."""

    pixel_values: Tensor | None
    image_present: Tensor | None
    image_indices: Tensor | None


class AudioInputs(TypedDict, total=False):
    """Arguments of the audio tower."""

    input_features: Tensor | None
    input_features_mask: Tensor | None
    input_values: Tensor | None
    input_values_mask: Tensor | None
    audio_present: Tensor | None


class VideoInputs(TypedDict, total=False):
    """Arguments of the video tower."""

    pixel_values_videos: Tensor | None
    pixel_values_videos_mask: Tensor | None
    video_present: Tensor | None


class OutputOptions(TypedDict, total=False):
    """Arguments that request attentions and hidden states in the output."""

    output_attentions: bool | None
    output_hidden_states: LayerChoice | None


class EncoderInputs(TextInputs, ImageInputs, AudioInputs, VideoInputs, OutputOptions, total=False):
    """Arguments of every class: any mix of modalities."""

    encoder_outputs: Mapping[str, Any] | None


class TextFeatureInputs(TextInputs, OutputOptions, total=False):
    """Arguments of `get_text_features`."""


class ImageFeatureInputs(ImageInputs, OutputOptions, total=False):
    """Arguments of `get_image_features`."""


class AudioFeatureInputs(AudioInputs, OutputOptions, total=False):
    """Arguments of `get_audio_features`."""


class VideoFeatureInputs(VideoInputs, OutputOptions, total=False):
    """Arguments of `get_video_features`."""


class DocumentFeatureInputs(TextInputs, ImageInputs, AudioInputs, OutputOptions, total=False):
    """Arguments of `get_document_features`: those of the documents' modality."""


class DocumentInputs(TypedDict, total=False):
    """Arguments of the side "document" in retrieval: a second input of one modality."""

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
    """Arguments for the texts of hard negatives in retrieval: (batch, negatives, length) each."""

    negative_input_ids: Tensor | None
    negative_attention_mask: Tensor | None
    negative_token_type_ids: Tensor | None


class RetrievalInputs(EncoderInputs, DocumentInputs, NegativeInputs, total=False):
    """Arguments of `PlaitForRetrieval`."""


class CacheInputs(TypedDict, total=False):
    """Arguments for incremental decoding (KV cache)."""

    past_key_values: Cache | None
    use_cache: bool | None


class FlattenedInputs(TypedDict, total=False):
    """Arguments of a decoder alone for rows flattened into one, as DataCollatorWithFlattening makes them: the offsets
    at which each row begins and the last one ends, or each token's row number. Their maximal lengths have no effect."""

    cu_seq_lens_q: Tensor | None
    cu_seq_lens_k: Tensor | None
    max_length_q: int | Tensor | None
    max_length_k: int | Tensor | None
    seq_idx: Tensor | None


class DecoderInputs(TypedDict, total=False):
    """Arguments for the text of a decoder that cross-attends to a context."""

    decoder_input_ids: Tensor | None
    decoder_attention_mask: Tensor | None
    decoder_position_ids: Tensor | None
    decoder_inputs_embeds: Tensor | None


class ModelInputs(EncoderInputs, DecoderInputs, CacheInputs, FlattenedInputs, total=False):
    """Arguments of `PlaitModel`."""


class LossOptions(TypedDict, total=False):
    """Arguments for computing a loss. Signatures do not list them: the Trainer takes every argument with "label" in its
    name for labels, and computes no loss for a batch that lacks one of them."""

    shift_labels: Tensor | None
    label_smoothing: float


class CausalLMInputs(EncoderInputs, CacheInputs, FlattenedInputs, LossOptions, total=False):
    """Arguments of `PlaitForCausalLM`."""


class ConditionalGenerationInputs(ModelInputs, LossOptions, total=False):
    """Arguments of `PlaitForConditionalGeneration`."""


class QuestionAnsweringInputs(EncoderInputs, LossOptions, total=False):
    """Arguments of `PlaitForQuestionAnswering`."""


# names of the arguments of each modality
MODALITY_INPUTS = {
    modality: tuple(fields.__annotations__)
    for modality, fields in zip(MODALITIES, (TextInputs, ImageInputs, AudioInputs, VideoInputs), strict=True)
}


def split_by_modality(inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the arguments of each modality, with None for those that were not passed."""
    return {modality: {name: inputs.get(name) for name in names} for modality, names in MODALITY_INPUTS.items()}


def expand_signature(forward: Forward) -> Forward:
    """Decorates a method so that its signature lists the names in `**inputs: Unpack[SomeTypedDict]`, before its own
    arguments: the Trainer drops columns, and `generate` refuses arguments, that a signature does not list.

    The listed arguments may be positional; an unknown or repeated argument raises TypeError.
    """
    *own, inputs = inspect.signature(forward).parameters.values()
    (fields,) = get_args(inputs.annotation)
    hints = {name: hint for name, hint in fields.__annotations__.items() if name not in LossOptions.__annotations__}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    listed = [inspect.Parameter(name, kind, default=None, annotation=hint) for name, hint in hints.items()]
    names, known = tuple(hints), frozenset(fields.__annotations__) | {parameter.name for parameter in own}

    @functools.wraps(forward)
    def wrapper(self: Any, *positional: Any, **named: Any) -> Any:
        if len(positional) > len(names):
            raise TypeError(f"{type(self).__name__} takes {len(names)} positional arguments, but got {len(positional)}")
        for name in named:
            if name not in known or name in names[: len(positional)]:
                problem = "more than once: pass it once" if name in known else "which it does not have: leave it out"
                raise TypeError(f"{type(self).__name__} got the argument {name!r}, {problem}")
        return forward(self, **dict(zip(names, positional, strict=False)), **named)

    hidden = len(names) < len(fields.__annotations__)
    parameters = [own[0], *listed, *own[1:], *([inputs] if hidden else [])]
    shown: Any = wrapper
    shown.__signature__ = inspect.signature(forward).replace(parameters=parameters)
    return shown
