"""Audio Spectrogram Transformer (Gong et al. 2021, https://arxiv.org/abs/2104.01778)."""

from typing import Any

from ....configuration import PlaitSpectrogramConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import Leading, NameTable
from .vit import ATTENTION

TABLE: NameTable = {
    "embeddings.cls_token": "embeddings.class_tokens.0.tokens",
    "embeddings.distillation_token": "embeddings.class_tokens.1.tokens",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "embeddings.position_embeddings": Leading("embeddings.position_embedding.weight", -1),
    **ATTENTION,
    "encoder.layer.{}.layernorm_before": "transformer.layers.{}.self_attn_norm",
    "encoder.layer.{}.layernorm_after": "transformer.layers.{}.mlp_norm",
    "encoder.layer.{}.intermediate.dense": "transformer.layers.{}.mlp.up_proj",
    "encoder.layer.{}.output.dense": "transformer.layers.{}.mlp.down_proj",
    "layernorm": "transformer.output_norm",
}
HEADS: dict[str, NameTable] = {
    "ForAudioClassification": {"classifier.layernorm": "pooler.norm", "classifier.dense": "classifier"},
}


def config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns the tower's fields; a classifier adds a norm to the mean of class token and distillation token."""
    size = hub.patch_size
    return {
        "num_mel_bins": hub.num_mel_bins,
        "max_length": hub.max_length,
        "patch_size": size if isinstance(size, int) else list(size),
        "frequency_stride": hub.frequency_stride,
        "time_stride": hub.time_stride,
        "hidden_size": hub.hidden_size,
        "num_hidden_layers": hub.num_hidden_layers,
        "num_attention_heads": hub.num_attention_heads,
        "intermediate_size": hub.intermediate_size,
        "hidden_act": hub.hidden_act,
        "hidden_dropout_prob": hub.hidden_dropout_prob,
        "attention_dropout": hub.attention_probs_dropout_prob,
        "initializer_range": hub.initializer_range,
        "norm_eps": hub.layer_norm_eps,
        "qkv_bias": hub.qkv_bias,
        "pooling": "mean_of_two",
        "tie_last_hidden_state": False,
        "pooler_norm": "classifier.layernorm.weight" in names,
    }


FAMILIES = (
    Family(
        model_types=("audio-spectrogram-transformer",),
        config_class=PlaitSpectrogramConfig,
        config=config,
        table=TABLE,
        heads=HEADS,
        prefixes=("audio_spectrogram_transformer.",),
    ),
)
