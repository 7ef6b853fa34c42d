"""wav2vec2 (Baevski et al. 2020, https://arxiv.org/abs/2006.11477) and HuBERT (Hsu et al. 2021,
https://arxiv.org/abs/2106.07447), with norms after or (stable) before each layer's parts."""

from typing import Any

from ....configuration import PlaitWaveformConfig
from ..conversion.family import Family, TensorNames, expect
from ..conversion.rules import Leading, NameTable

POSITION_CONVOLUTION = "encoder.pos_conv_embed.conv."
TABLE: NameTable = {
    "masked_spec_embed": Leading("embeddings.mask_token.tokens", 2),
    "feature_extractor.conv_layers.{}.conv": "embeddings.convolutions.{}.convolution",
    "feature_extractor.conv_layers.{}.layer_norm": "embeddings.convolutions.{}.norm",
    "feature_projection.layer_norm": "embeddings.norm",
    "feature_projection.projection": "embeddings.projection",
    POSITION_CONVOLUTION + "bias": "embeddings.position_embedding.bias",
    POSITION_CONVOLUTION + "parametrizations.weight.original0": "embeddings.position_embedding.magnitude",
    POSITION_CONVOLUTION + "parametrizations.weight.original1": "embeddings.position_embedding.direction",
    POSITION_CONVOLUTION + "weight_g": "embeddings.position_embedding.magnitude",  # in files written before torch 2.1
    POSITION_CONVOLUTION + "weight_v": "embeddings.position_embedding.direction",
    "encoder.layers.{}.attention.q_proj": "transformer.layers.{}.self_attn.q_proj",
    "encoder.layers.{}.attention.k_proj": "transformer.layers.{}.self_attn.k_proj",
    "encoder.layers.{}.attention.v_proj": "transformer.layers.{}.self_attn.v_proj",
    "encoder.layers.{}.attention.out_proj": "transformer.layers.{}.self_attn.o_proj",
    "encoder.layers.{}.layer_norm": "transformer.layers.{}.self_attn_norm",
    "encoder.layers.{}.feed_forward.intermediate_dense": "transformer.layers.{}.mlp.up_proj",
    "encoder.layers.{}.feed_forward.output_dense": "transformer.layers.{}.mlp.down_proj",
    "encoder.layers.{}.final_layer_norm": "transformer.layers.{}.mlp_norm",
}
QUANTIZER = ("quantizer.codevectors", "quantizer.weight_proj", "project_q", "project_hid")
HEADS: dict[str, NameTable] = {
    "ForCTC": {"lm_head": None},
    "ForSequenceClassification": {"projector": "pooler.dense", "classifier": "classifier"},
    "ForPreTraining": dict.fromkeys(QUANTIZER),
}
UNSUPPORTED = {"add_adapter": False, "adapter_attn_dim": None, "conv_pos_batch_norm": False}


def config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns the tower's fields. A classifier averages projected tokens; projecting their mean gives the same."""
    settings = hub.to_dict()
    expect(settings, **UNSUPPORTED, use_weighted_layer_sum=False)
    stable = hub.do_stable_layer_norm
    pooler = {"pooling": "mean", "pooler_size": hub.classifier_proj_size} if "projector.weight" in names else {}
    same = "hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act attention_dropout "
    same += "activation_dropout initializer_range feat_proj_dropout feat_extract_norm feat_extract_activation "
    same += "conv_dim conv_kernel conv_stride conv_bias num_conv_pos_embeddings num_conv_pos_embedding_groups"
    return (
        {name: settings[name] for name in same.split()}
        | pooler
        | {
            "hidden_dropout_prob": hub.hidden_dropout,
            "norm_eps": hub.layer_norm_eps,
            "norm_position": "pre" if stable else "post",
            "input_norm": not stable,
            "output_norm": stable,
            "feat_proj_layer_norm": settings.get("feat_proj_layer_norm", True),
            "mask_token": "masked_spec_embed" in names,
            "tie_last_hidden_state": False,
        }
    )


def build_wav2vec2_table(config: PlaitWaveformConfig) -> NameTable:
    """Returns the table of names; the encoder's norm is before its layers or (stable) after them."""
    return TABLE | {"encoder.layer_norm": f"transformer.{'input' if config.input_norm else 'output'}_norm"}


FAMILIES = tuple(
    Family((model_type,), PlaitWaveformConfig, config, build_wav2vec2_table, HEADS, prefixes=(f"{model_type}.",))
    for model_type in ("wav2vec2", "hubert")
)
