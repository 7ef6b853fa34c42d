"""Late fusion: one vector a modality, and a gate."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ....configuration import PlaitFusionConfig
from ...core.layers import SelfInitializing
from ..pooled import PooledFusion, masked_softmax, weighted_sum


class LateFusion(PooledFusion):
    """A learned softmax over the modalities that a row has weighs their vectors (the modality attention of Hori et al.
    2017, https://arxiv.org/abs/1701.03126, with a score that is linear in the vector):

        a = softmax over present m of (w_m . x_m + b_m),  fused = sum of a_m x_m

    The gates start at zero: the plain mean of what is present, and a single modality passes as it is.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.gates = nn.ModuleDict({modality: ModalityScore(config.hidden_size) for modality in self.modalities})

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        scores = torch.cat([self.gates[m](vector) for m, vector in vectors.items()], dim=1)
        return weighted_sum(masked_softmax(scores, present), vectors)


class ModalityScore(SelfInitializing):
    """A score, w . x + b, that starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(1))

    def init_weights(self, std: float) -> None:
        init.zeros_(self.weight)
        init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to (batch, 1)."""
        # not x @ w: a matrix-vector product sums in an order that depends on where the weight lies in memory
        return (x * self.weight).sum(dim=-1, keepdim=True) + self.bias
