"""A speaker encoder (Wan et al. 2018, https://arxiv.org/abs/1710.10467): an LSTM over mel frames, whose last state a
dense layer and ReLU turn into a vector of length 1. Its config.json names no model type."""

from typing import Any

from ....configuration import PlaitRNNConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import NameTable

RNN_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
TABLE: NameTable = {
    **{f"lstm.{kind}_l{{}}": f"rnn.{kind}_l{{}}" for kind in RNN_PARAMETERS},
    "linear": "pooler.dense",
}


def is_voice_encoder(config_dict: dict[str, Any]) -> bool:
    """Returns whether a config.json without a model type describes a speaker encoder."""
    return str(config_dict.get("architecture", "")).startswith("LSTM(") and "feature_size" in config_dict


def config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns the fields of the tower; config.json lacks layers and width, which are read from the names and shapes."""
    missing = [name for name in ("lstm.weight_hh_l0", "linear.weight") if name not in names]
    if missing:
        raise ValueError(f"the file lacks {missing[0]}: download or save it again")
    return {
        "num_mel_bins": hub.feature_size,
        "rnn_type": "lstm",
        "rnn_size": names.shapes["lstm.weight_hh_l0"][1],
        "num_hidden_layers": sum(name.startswith("lstm.weight_hh_l") for name in names),
        "bidirectional": False,
        "pooling": "final",
        "pooler_size": names.shapes["linear.weight"][0],
        "pooler_act": "relu",
        "pooler_normalize": True,
    }


FAMILIES = (Family(("voice_encoder",), PlaitRNNConfig, config, TABLE, recognises=is_voice_encoder),)
