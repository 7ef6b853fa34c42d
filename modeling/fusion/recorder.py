"""What the strategies with layers of their own return besides: hidden states and attentions of all streams in one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..outputs import LayerChoice, select_layers


class OutputRecorder:
    """Collects what was asked for, a tensor a layer."""

    def __init__(self, layers: int, output_hidden_states: LayerChoice, output_attentions: bool) -> None:
        self.recorded_layers = select_layers(output_hidden_states, layers + 1)
        self.output_attentions = output_attentions
        self.states: list[Tensor | None] = []
        self.attention_weights: list[Tensor] = []
        self.cross_attention_weights: list[Tensor] = []

    def record_hidden_states(self, streams: Mapping[str, Tensor]) -> None:
        """The tokens before a layer, each (batch, length, width)."""
        wanted = len(self.states) in self.recorded_layers
        self.states.append(torch.cat(list(streams.values()), dim=1) if wanted else None)

    @property
    def hidden_states(self) -> tuple[Tensor | None, ...] | None:
        return tuple(self.states) if self.recorded_layers else None

    @property
    def attentions(self) -> tuple[Tensor, ...] | None:
        return tuple(self.attention_weights) if self.output_attentions else None

    @property
    def cross_attentions(self) -> tuple[Tensor, ...] | None:
        return tuple(self.cross_attention_weights) if self.output_attentions else None


def scatter_keys(weights: Tensor, lengths: Mapping[str, int], attended: Sequence[str]) -> Tensor:
    """Attention weights over the streams `read`, (batch, heads, length, keys), as weights over all streams, with zeros
    for those not read; `lengths`: the tokens of each stream."""
    found = dict(zip(attended, weights.split([lengths[modality] for modality in attended], dim=-1), strict=True))
    zeros = {modality: weights.new_zeros(*weights.shape[:-1], length) for modality, length in lengths.items()}
    return torch.cat(list((zeros | found).values()), dim=-1)
