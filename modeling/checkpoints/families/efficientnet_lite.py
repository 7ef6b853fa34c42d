"""EfficientNet-lite (Tan and Le 2019, https://arxiv.org/abs/1905.11946, without squeeze-and-excitation): weights with
the names of the PyTorch port, and a config.json that lists the stages and names no model type."""

from typing import Any

from ....configuration import PlaitCNNConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import NameTable


def is_efficientnet_lite(config_dict: dict[str, Any]) -> bool:
    """Returns whether a config.json without a model type describes an EfficientNet-lite."""
    return str(config_dict.get("architecture", "")).startswith("EfficientNet-Lite") and "stages" in config_dict


def config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns the fields of the tower; config.json lacks the widths, which are read from the shapes."""
    depths = [stage["repeats"] for stage in hub.stages]
    held = len({name.split(".")[1] for name in names if name.startswith("_blocks.")})
    if held != sum(depths):
        raise ValueError(
            f"the stages of config.json list {sum(depths)} blocks, but the file holds {held}: correct the stages"
        )
    ends = [sum(depths[:stage]) - 1 for stage in range(1, len(depths) + 1)]
    return {
        "architecture": "efficientnet_lite",
        "image_size": hub.image_size,
        "num_channels": find_shape(names, "_conv_stem.weight")[1],
        "embedding_size": find_shape(names, "_conv_stem.weight")[0],
        "layer_type": "inverted",
        "hidden_sizes": [find_shape(names, f"_blocks.{end}._project_conv.weight")[0] for end in ends],
        "depths": depths,
        "strides": [stage["stride"] for stage in hub.stages],
        "kernel_sizes": [stage["kernel"] for stage in hub.stages],
        "expand_ratios": [stage["expansion"] for stage in hub.stages],
        "head_size": find_shape(names, "_conv_head.weight")[0],
        "hidden_act": "relu6",
        "norm_eps": 1e-3,
    }


def find_shape(names: TensorNames, name: str) -> tuple[int, ...]:
    """Returns the shape of a tensor; raises ValueError if the file lacks it."""
    if name not in names:
        raise ValueError(f"the file lacks {name}: download or save it again")
    return names.shapes[name]


def build_efficientnet_table(config: PlaitCNNConfig) -> NameTable:
    """Returns the table of names; on disk, blocks are numbered through all stages."""
    places = [f"stages.{stage}.{layer}.parts" for stage, depth in enumerate(config.depths) for layer in range(depth)]
    rows: NameTable = {}
    for number, place in enumerate(places):
        for part, norm in (("expand", 0), ("depthwise", 1), ("project", 2)):
            rows[f"_blocks.{number}._{part}_conv"] = f"{place}.{part}.convolution"
            rows[f"_blocks.{number}._bn{norm}"] = f"{place}.{part}.normalization"
    return {
        "_conv_stem": "stem.entry.convolution",
        "_bn0": "stem.entry.normalization",
        "_conv_head": "head.convolution",
        "_bn1": "head.normalization",
        **rows,
    }


FAMILIES = (
    Family(
        model_types=("efficientnet_lite",),
        config_class=PlaitCNNConfig,
        config=config,
        table=build_efficientnet_table,
        heads={"ForImageClassification": {"_fc": "classifier"}},
        recognises=is_efficientnet_lite,
    ),
)
