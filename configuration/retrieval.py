"""One space for several towers, as data."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .base import PlaitBaseConfig

CLIP_SCALE = math.log(1 / 0.07)
DOCUMENT = "document"
NEGATIVE = "negative"  # before the names of hard negatives' inputs


@strict
class PlaitRetrievalConfig(PlaitBaseConfig):
    """How the towers' vectors come into one space and are compared.

    Each tower's pooled vector is projected to `projection_dim` (None: it is taken as it is, and all must be as wide).
    `loss` is `info_nce` (CLIP) or `sigmoid` (SigLIP); `hardness` lets harder negatives of InfoNCE count more (0: all
    alike). `logit_scale_init_value` is the logarithm of the scale of similarities at the start of training,
    `max_logit_scale` what the scale itself may become; `logit_bias_init_value` what is added to similarities (None:
    nothing). `document` names the modality of a second input in a role of its own: texts that are searched by texts. It
    has a tower of its own where the whole config has a `document_config`, else it shares that of its modality.
    `family` and `source_config` say of what checkpoint the towers were published together.

    Raises:
        ValueError: a size, scale or hardness out of its range.
    """

    model_type = "plait_retrieval"
    base_config_key = "retrieval_config"

    projection_dim: int | None = 512
    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    hardness: float | int = 0.0
    logit_scale_init_value: float | int = CLIP_SCALE
    logit_bias_init_value: float | int | None = None
    max_logit_scale: float | int = 100.0
    document: Literal["text", "image", "audio"] | None = None
    family: str | None = None
    source_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.projection_dim is not None and self.projection_dim < 1:
            raise ValueError(f"projection_dim is {self.projection_dim}: expected a width, or None for no projection")
        if self.hardness < 0 or (self.hardness and self.loss != "info_nce"):
            raise ValueError(f"hardness is {self.hardness}: expected a number from 0 on, above 0 with info_nce only")
        if self.max_logit_scale <= 0:
            raise ValueError(f"max_logit_scale is {self.max_logit_scale}: expected a number above 0")
