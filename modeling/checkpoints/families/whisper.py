"""Whisper (Radford et al. 2022, https://arxiv.org/abs/2212.04356): an encoder of log-mel frames and a text decoder."""

from collections.abc import Set
from typing import Any

from ....configuration import PlaitAudioConfig
from ..conversion.family import Family, expect
from ..conversion.rules import NameTable
from ..conversion.zeros import FAMILY_ZEROS
from .bart import LAYERS_TABLE, read_stack_fields, read_vocabulary_fields

TABLE: NameTable = {
    "encoder.conv1": "encoder.embeddings.conv1",
    "encoder.conv2": "encoder.embeddings.conv2",
    "encoder.embed_positions": "encoder.embeddings.position_embedding",
    "encoder.layer_norm": "encoder.transformer.output_norm",
    "decoder.embed_tokens": "decoder.embeddings.token_embedding",
    "decoder.embed_positions": "decoder.embeddings.position_embedding",
    "decoder.layer_norm": "decoder.transformer.output_norm",
    **LAYERS_TABLE,
}
HEADS: dict[str, NameTable] = {
    "ForConditionalGeneration": {"proj_out": "lm_head"},
    "ForCausalLM": {"proj_out": "lm_head"},
    "ForAudioClassification": {"projector": "encoder.pooler.dense", "classifier": "classifier"},
}


def whisper_encoder_config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns the encoder's fields. A classifier averages projected tokens; projecting their mean gives the same."""
    expect(hub.to_dict(), apply_spec_augment=False, use_weighted_layer_sum=False)
    frames = {"num_mel_bins": hub.num_mel_bins, "max_source_positions": hub.max_source_positions}
    pooler = {"pooling": "mean", "pooler_size": hub.classifier_proj_size} if "projector.weight" in names else {}
    return read_stack_fields(hub, "encoder") | frames | pooler


def whisper_decoder_config(hub: Any, names: Set[str]) -> dict[str, Any]:
    """Returns the decoder's fields; `scale_embedding` has no effect in Whisper."""
    places = {"max_position_embeddings": hub.max_target_positions}
    return (
        read_stack_fields(hub, "decoder")
        | read_vocabulary_fields(hub)
        | places
        | {"cross_attention": True, "context_size": hub.d_model}
    )


FAMILIES = (
    Family(
        model_types=("whisper",),
        config_class=PlaitAudioConfig,
        config=whisper_encoder_config,
        table=TABLE,
        heads=HEADS,
        prefixes=("model.",),
        decoder=whisper_decoder_config,
        zeros=FAMILY_ZEROS["whisper"],
    ),
)
