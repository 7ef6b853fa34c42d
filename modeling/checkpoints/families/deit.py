"""DeiT with a distillation token (Touvron et al. 2020, https://arxiv.org/abs/2012.12877)."""

from typing import Any

from ....configuration import PlaitVisionConfig
from ..conversion.family import Family, TensorNames
from ..conversion.rules import NameTable
from . import vit

TABLE: NameTable = {**vit.TABLE, "embeddings.distillation_token": "embeddings.class_tokens.1.tokens"}
HEADS: dict[str, NameTable] = {
    **vit.HEADS,
    "ForImageClassificationWithTeacher": {
        "cls_classifier": "classifier",
        "distillation_classifier": "distillation_classifier",
    },
}


def config(hub: Any, names: TensorNames) -> dict[str, Any]:
    """Returns ViT's fields with a second class token, for distillation."""
    return vit.config(hub, names) | {"class_tokens": 2}


FAMILIES = (Family(("deit",), PlaitVisionConfig, config, TABLE, HEADS, prefixes=("deit.",)),)
