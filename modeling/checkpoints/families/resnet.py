"""ResNet (He et al. 2015, https://arxiv.org/abs/1512.03385), with basic or bottleneck layers."""

from typing import Any

from transformers import PreTrainedConfig

from ....configuration import PlaitCNNConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import NameTable


def config(hub: PreTrainedConfig, names: TensorNames) -> dict[str, Any]:
    """Returns ResNet's fields; raises ValueError for an activation other than ReLU."""
    if hub.hidden_act != "relu":  # transformers' layers apply it only at their end, and ReLU inside
        raise ValueError(f"hidden_act {hub.hidden_act!r} of a ResNet is not supported, only 'relu'")
    later = [2] * (len(hub.hidden_sizes) - 1)
    return {
        "architecture": "resnet",
        "num_channels": hub.num_channels,
        "embedding_size": hub.embedding_size,
        "layer_type": hub.layer_type,
        "hidden_sizes": hub.hidden_sizes,
        "depths": hub.depths,
        "strides": [2 if hub.downsample_in_first_stage else 1, *later],
        "downsample_in_bottleneck": hub.downsample_in_bottleneck,
        "hidden_act": hub.hidden_act,
        "norm_eps": 1e-5,  # torch's default: the checkpoint's config does not name it
    }


LAYER_MODULES = ("convolution", "normalization")
LAYER = "encoder.stages.{}.layers.{}"

TABLE: NameTable = {
    **{f"embedder.embedder.{part}": f"stem.entry.{part}" for part in LAYER_MODULES},
    **{LAYER + ".layer.{}." + part: "stages.{}.{}.parts.{}." + part for part in LAYER_MODULES},
    **{LAYER + ".shortcut." + part: "stages.{}.{}.shortcut." + part for part in LAYER_MODULES},
}

FAMILIES = (
    Family(
        model_types=("resnet",),
        config_class=PlaitCNNConfig,
        config=config,
        table=TABLE,
        heads={"ForImageClassification": {"classifier.1": "classifier"}},
        prefixes=("resnet.",),
    ),
)
