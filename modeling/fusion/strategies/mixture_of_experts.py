"""Mixture of experts: one expert for each modality, weighted by a gate computed from all modalities."""

import torch
from torch import Tensor, nn

from ....configuration import PlaitFusionConfig
from ...core.layers import PlaitGatedMLP, PlaitMLP
from ..pooled import PooledFusion, masked_softmax, weighted_sum


class MixtureOfExpertsFusion(PooledFusion):
    """Mixture of experts: each modality has an expert, an MLP; a gate computed from the vectors of all modalities
    weights the experts of the present ones (Jacobs et al. 1991, "Adaptive Mixtures of Local Experts", section 1; with
    weights that add up to 1 over the present modalities: Miech et al. 2018, https://arxiv.org/abs/1804.02516, section
    3.3):

        g = softmax over present m of (V [x_text; x_image; ...])_m,  fused = sum of g_m mlp_m(x_m)

    An absent modality is a vector of zeros to the gate.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        mlp = PlaitGatedMLP if config.gated_mlp else PlaitMLP
        self.experts = nn.ModuleDict({modality: mlp(config) for modality in self.modalities})
        self.gate = nn.Linear(len(self.modalities) * config.hidden_size, len(self.modalities))

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Sums the experts' outputs, weighted by the gate."""
        scores = self.gate(torch.cat(list(vectors.values()), dim=-1))
        experts = {modality: self.experts[modality](x) for modality, x in vectors.items()}
        return weighted_sum(masked_softmax(scores, present), experts)
