"""Late fusion: one vector for each modality, weighted by learned gates."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ....configuration import PlaitFusionConfig
from ...core.layers import SelfInitializing
from ..pooled import PooledFusion, masked_softmax, weighted_sum


class LateFusion(PooledFusion):
    """Late fusion: a learned softmax over the present modalities of a row weights their vectors (the modality attention
    of Hori et al. 2017, https://arxiv.org/abs/1701.03126, with a score that is linear in the vector):

        a = softmax over present m of (w_m . x_m + b_m),  fused = sum of a_m x_m

    The gates start at zero, which gives the mean of the present modalities; a single modality passes unchanged.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.gates = nn.ModuleDict({modality: ModalityScore(config.hidden_size) for modality in self.modalities})

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Sums the vectors, weighted by the softmax of their scores."""
        scores = torch.cat([self.gates[m](vector) for m, vector in vectors.items()], dim=1)
        return weighted_sum(masked_softmax(scores, present), vectors)


class ModalityScore(SelfInitializing):
    """Computes a score, w . x + b, that starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(1))

    def init_weights(self, std: float) -> None:
        """Sets weight and bias to zero."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns scores (batch, 1) of x (batch, width)."""
        # not x @ w: a matrix-vector product sums in an order that depends on the weight's address in memory
        return (x * self.weight).sum(dim=-1, keepdim=True) + self.bias
