"""What the strategies share that read one vector a modality."""

import torch
from torch import Tensor, nn

from ...configuration import PlaitFusionConfig
from ..core.layers import build_norm
from ..core.pooling import mean_token
from ..outputs import LayerChoice
from .base import Fusion, FusionOutput, Stream


class PooledFusion(Fusion):
    """Base of the strategies that join vectors: each stream is normed and averaged to one vector x_m, (batch, width),
    which is zero where the modality is absent. A subclass implements `join`.

    One token a row; there is no joint transformer, hence `num_hidden_layers` has no effect and there are no hidden
    states.
    """

    keeps_tokens = False

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.norms = nn.ModuleDict({modality: build_norm(config) for modality in self.modalities})

    def fuse(
        self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool
    ) -> FusionOutput:
        vectors = {m: mean_token(self.norms[m](stream.tokens), stream.mask) for m, stream in streams.items()}
        present = torch.stack([stream.present for stream in streams.values()], dim=1)
        return FusionOutput(self.combine(vectors, present)[:, None], present.any(dim=1, keepdim=True))

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """vectors: by modality, each (batch, width); present: (batch, modalities) bool. Returns (batch, width)."""
        raise NotImplementedError


def weighted_sum(weights: Tensor, vectors: dict[str, Tensor]) -> Tensor:
    """weights: (batch, modalities). Returns the sum of a_m x_m, (batch, width)."""
    return (weights[:, None] @ torch.stack(list(vectors.values()), dim=1))[:, 0]


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax over the modalities that a row has, zero for the others; both (batch, modalities)."""
    return scores.masked_fill(~present, float("-inf")).softmax(dim=1)
