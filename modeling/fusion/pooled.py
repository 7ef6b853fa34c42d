"""The base of the strategies that pool each modality to one vector."""

import torch
from torch import Tensor, nn

from ...configuration import PlaitFusionConfig
from ..core.layers import build_norm
from ..core.pooling import mean_token
from ..outputs import LayerChoice
from .base import Fusion, FusionOutput, Stream


class PooledFusion(Fusion):
    """Base of the strategies that combine vectors: each stream is normed and averaged to one vector x_m, (batch,
    width), which is zero if the modality is absent. A subclass implements `combine`.

    The output has one token in each row. There is no joint transformer, hence `num_hidden_layers` has no effect and
    there are no hidden states.
    """

    keeps_tokens = False

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.norms = nn.ModuleDict({modality: build_norm(config) for modality in self.modalities})

    def fuse(
        self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool
    ) -> FusionOutput:
        """Pools each stream to a vector, and combines the vectors."""
        vectors = {m: mean_token(self.norms[m](stream.tokens), stream.mask) for m, stream in streams.items()}
        present = torch.stack([stream.present for stream in streams.values()], dim=1)
        return FusionOutput(self.combine(vectors, present)[:, None], present.any(dim=1, keepdim=True))

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Returns the fused vector, (batch, width); vectors: by modality, each (batch, width); present: (batch,
        modalities) bool."""
        raise NotImplementedError


def weighted_sum(weights: Tensor, vectors: dict[str, Tensor]) -> Tensor:
    """Returns the sum over modalities of a_m x_m, (batch, width); weights a: (batch, modalities)."""
    return (weights[:, None] @ torch.stack(list(vectors.values()), dim=1))[:, 0]


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Computes the softmax over the present modalities of each row, zero for the others; all (batch, modalities)."""
    return scores.masked_fill(~present, float("-inf")).softmax(dim=1)
