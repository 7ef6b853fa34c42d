"""Projections of the sides of retrieval into one space, and the similarity of vectors in it."""

import math
from typing import Any

from torch import nn

from ...configuration import PlaitConfig, PlaitRetrievalConfig, PlaitRNNConfig, PlaitTowerConfig, width_of
from ...configuration.sentence import compute_sentence_widths, pools_sentences
from ..core.pooling import compute_pooled_width
from ..losses.contrastive import Similarity
from .scalar_weights import register_scalar_weights


def compute_side_width(config: PlaitConfig, side: str) -> int:
    """Computes the width of the vector that `pool_output` returns for this side."""
    modality = config.sides[side]
    tower: Any = config.towers.get(side) or config.towers[modality]
    if pools_sentences(tower):
        return compute_sentence_widths(tower, width_of(tower, modality))[-1]
    if isinstance(tower, PlaitRNNConfig):
        return tower.pooler_size or tower.hidden_size
    pools = isinstance(tower, PlaitTowerConfig) and tower.pooling != "none"
    return compute_pooled_width(tower) if pools else width_of(tower, modality)


def build_projections(config: PlaitConfig, settings: PlaitRetrievalConfig) -> nn.ModuleDict:
    """Builds a linear map without bias for each tower; an empty dict if `projection_dim` is None: the towers' vectors
    are compared without a projection.

    Raises ValueError if those have different widths.
    """
    widths = {side: compute_side_width(config, side) for side in config.towers}
    if settings.projection_dim is not None:
        sizes = widths.items()
        return nn.ModuleDict({side: nn.Linear(width, settings.projection_dim, bias=False) for side, width in sizes})
    if len(set(widths.values())) > 1:
        raise ValueError(f"without a projection all towers must be as wide, but they are {widths}: set projection_dim")
    return nn.ModuleDict()


def build_similarity(settings: PlaitRetrievalConfig) -> Similarity:
    """Builds the similarity with the initial scale and bias of the retrieval config."""
    register_scalar_weights()
    scale = math.exp(settings.logit_scale_init_value)
    return Similarity(scale, settings.logit_bias_init_value, max(scale, settings.max_logit_scale))
