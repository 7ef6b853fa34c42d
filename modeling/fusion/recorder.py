"""Hidden states and attentions of the strategies with their own layers, concatenated over all streams."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..outputs import LayerChoice, select_layers


class OutputRecorder:
    """Collects the requested hidden states and attentions, one tensor for each layer."""

    def __init__(self, layers: int, output_hidden_states: LayerChoice, output_attentions: bool) -> None:
        self.recorded_layers = select_layers(output_hidden_states, layers + 1)
        self.output_attentions = output_attentions
        self.states: list[Tensor | None] = []
        self.attention_weights: list[Tensor] = []
        self.cross_attention_weights: list[Tensor] = []

    def record_hidden_states(self, streams: Mapping[str, Tensor]) -> None:
        """Records the streams' tokens before a layer, each (batch, length, width)."""
        wanted = len(self.states) in self.recorded_layers
        self.states.append(torch.cat(list(streams.values()), dim=1) if wanted else None)

    @property
    def hidden_states(self) -> tuple[Tensor | None, ...] | None:
        """One tensor for each layer and one for the output, None for a layer not requested; None if no layer is."""
        return tuple(self.states) if self.recorded_layers else None

    @property
    def attentions(self) -> tuple[Tensor, ...] | None:
        """The self-attention weights of each layer; None if not requested."""
        return tuple(self.attention_weights) if self.output_attentions else None

    @property
    def cross_attentions(self) -> tuple[Tensor, ...] | None:
        """The cross-attention weights of each layer; None if not requested."""
        return tuple(self.cross_attention_weights) if self.output_attentions else None


def scatter_keys(weights: Tensor, lengths: Mapping[str, int], attended: Sequence[str]) -> Tensor:
    """Extends attention weights over the `attended` streams, (batch, heads, length, keys), to the keys of all streams,
    with zeros for the other streams; lengths: the number of tokens of each stream."""
    found = dict(zip(attended, weights.split([lengths[modality] for modality in attended], dim=-1), strict=True))
    zeros = {modality: weights.new_zeros(*weights.shape[:-1], length) for modality, length in lengths.items()}
    return torch.cat(list((zeros | found).values()), dim=-1)
