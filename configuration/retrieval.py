"""The config of retrieval: several towers with one space of vectors."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .base import PlaitBaseConfig

CLIP_SCALE = math.log(1 / 0.07)
DOCUMENT = "document"
NEGATIVE = "negative"  # the prefix of the names of the inputs of hard negatives


@strict
class PlaitRetrievalConfig(PlaitBaseConfig):
    """The config of retrieval: how the towers' vectors are projected into one space and compared.

    Each tower's pooled vector is projected to `projection_dim` (None: no projection; all vectors must have the same
    width). `loss` is `info_nce` (CLIP) or `sigmoid` (SigLIP); `hardness` gives harder negatives of InfoNCE more weight
    (0: all equal). `logit_scale_init_value` is the logarithm of the initial scale of similarities, `max_logit_scale`
    the maximum of the scale itself; `logit_bias_init_value` is the initial bias of similarities (None: no bias).
    `document` names the modality of the documents, which are inputs separate from the queries, e.g. texts that are
    searched with texts. Documents have a tower of their own if the model's config has a `document_config`, else they
    share that of their modality. `family` and `source_config` describe the checkpoint that held the towers together.

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
            raise ValueError(
                f"projection_dim is {self.projection_dim}: expected a width of at least 1, or None for no projection"
            )
        if self.hardness < 0 or (self.hardness and self.loss != "info_nce"):
            raise ValueError(
                f"hardness is {self.hardness}: expected at least 0, and above 0 only with the loss 'info_nce'"
            )
        if self.max_logit_scale <= 0:
            raise ValueError(f"max_logit_scale is {self.max_logit_scale}: expected a number above 0")
