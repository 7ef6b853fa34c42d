"""VideoMAE (Tong et al. 2022, https://arxiv.org/abs/2203.12602) and ViViT (Arnab et al. 2021,
https://arxiv.org/abs/2103.15691): ViT over tubelets."""

from typing import Any

from ....configuration import PlaitTubeletConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import Leading, NameTable, OptionalRule
from ..conversion.zeros import FAMILY_ZEROS
from .vit import TABLE, read_image_fields

SHARED_TABLE: NameTable = {
    **{theirs: ours for theirs, ours in TABLE.items() if not theirs.startswith("embeddings.")},
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
}
ATTENTION_PREFIX = "encoder.layer.{}.attention.attention."
VIDEOMAE: NameTable = {
    **SHARED_TABLE,
    ATTENTION_PREFIX + "q_bias": "transformer.layers.{}.self_attn.q_proj.bias",
    ATTENTION_PREFIX + "v_bias": "transformer.layers.{}.self_attn.v_proj.bias",
}
VIVIT: NameTable = {
    **SHARED_TABLE,
    "embeddings.cls_token": "embeddings.class_tokens.0.tokens",
    "embeddings.position_embeddings": Leading("embeddings.position_embedding.weight", -1),
}
# parameters of pretraining, which reconstructs masked tubelets
VIDEOMAE_IGNORED = (r"decoder\..*", r"encoder_to_decoder\.weight", "mask_token")


def read_video_fields(hub: Any) -> dict[str, Any]:
    """Returns the fields that VideoMAE and ViViT share."""
    return {
        "num_channels": hub.num_channels,
        "num_frames": hub.num_frames,
        "hidden_size": hub.hidden_size,
        "num_hidden_layers": hub.num_hidden_layers,
        "num_attention_heads": hub.num_attention_heads,
        "intermediate_size": hub.intermediate_size,
        "hidden_act": hub.hidden_act,
        "hidden_dropout_prob": hub.hidden_dropout_prob,
        "attention_dropout": hub.attention_probs_dropout_prob,
        "initializer_range": hub.initializer_range,
        "norm_eps": hub.layer_norm_eps,
        "tie_last_hidden_state": False,
    }


def videomae_config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns VideoMAE's fields; a classifier reads the mean of all tokens, with a norm, or the first token."""
    pools = {"pooling": "first" if "classifier.weight" in names and not hub.use_mean_pooling else "none"}
    if "fc_norm.weight" in names:
        pools = {"pooling": "mean", "pooler_norm": True, "pooler_norm_eps": 1e-5}  # torch's default
    settings = hub.to_dict()
    biased = settings.get("qv_bias", settings.get("qkv_bias"))  # the name changed within transformers 5
    own = {"tubelet_size": hub.tubelet_size, "position_type": "sinusoidal", "qkv_bias": biased}
    return read_video_fields(hub) | read_image_fields(hub) | own | pools | {"output_norm": not hub.use_mean_pooling}


def vivit_config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns ViViT's fields; without a pooler in the file the class token is pooled, as its classifier needs."""
    frames, *patch = hub.tubelet_size
    size = hub.image_size if isinstance(hub.image_size, int) else list(hub.image_size)
    fields = {"image_size": size, "patch_size": patch, "tubelet_size": frames, "class_tokens": 1, "pooling": "first"}
    if "pooler.dense.weight" in names:
        fields |= {"pooler_size": names.shapes["pooler.dense.weight"][0], "pooler_act": hub.pooler_act}
    return read_video_fields(hub) | fields | {"qkv_bias": hub.qkv_bias}


VIDEOMAE_HEADS: dict[str, NameTable] = {
    "ForVideoClassification": {"fc_norm": OptionalRule("pooler.norm"), "classifier": "classifier"},
    "ForPreTraining": {},
}
FAMILIES = (
    Family(
        model_types=("videomae",),
        config_class=PlaitTubeletConfig,
        config=videomae_config,
        table=VIDEOMAE,
        heads=VIDEOMAE_HEADS,
        prefixes=("videomae.",),
        ignored=VIDEOMAE_IGNORED,
        zeros=FAMILY_ZEROS["videomae"],
    ),
    Family(
        model_types=("vivit",),
        config_class=PlaitTubeletConfig,
        config=vivit_config,
        table=VIVIT,
        heads={"ForVideoClassification": {"classifier": "classifier"}},
        prefixes=("vivit.",),
    ),
)
