"""Late fusion: one vector a modality, and a gate."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration import PlaitFusionConfig
from ..layers import Parameterised, norm_of
from ..outputs import LayerChoice
from ..pooling import mean_token
from .base import Fused, Fusion, Stream


class LateFusion(Fusion):
    """Each stream is normed and averaged to one vector x_m; a learned softmax over the modalities that a row has
    weighs them (the modality attention of Hori et al. 2017, https://arxiv.org/abs/1701.03126, with a score that is
    linear in the vector):

        a = softmax over present m of (w_m . x_m + b_m),  fused = sum of a_m x_m

    The gates start at zero: the plain mean of what is present, and a single modality passes as it is. One token a row;
    there is no joint transformer, hence `num_hidden_layers` has no effect and there are no hidden states.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.norms = nn.ModuleDict({modality: norm_of(config) for modality in self.modalities})
        self.gates = nn.ModuleDict({modality: Gate(config.hidden_size) for modality in self.modalities})

    def fuse(self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool) -> Fused:
        pooled = {m: mean_token(self.norms[m](stream.tokens), stream.mask) for m, stream in streams.items()}
        present = torch.stack([stream.present for stream in streams.values()], dim=1)
        scores = torch.cat([self.gates[m](vector) for m, vector in pooled.items()], dim=1)
        weights = scores.masked_fill(~present, float("-inf")).softmax(dim=1)
        fused = weights[:, None] @ torch.stack(list(pooled.values()), dim=1)
        return Fused(fused, present.any(dim=1, keepdim=True))


class Gate(Parameterised):
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
