"""Gated multimodal unit: one gate for each feature, computed from all modalities."""

import torch
from torch import Tensor, nn

from ....configuration import PlaitFusionConfig
from ..pooled import PooledFusion


class GatedMultimodalUnitFusion(PooledFusion):
    """The gated multimodal unit: each modality's features pass a gate computed from the vectors of all modalities
    (Arevalo et al. 2017, https://arxiv.org/abs/1702.01992, section 3.1); * is the product by element:

        h_m = tanh(W_m x_m),  g_m = sigmoid(U_m [x_text; x_image; ...]),  fused = sum over present m of g_m * h_m

    An absent modality is a vector of zeros to the gates of the others.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        width = config.hidden_size
        self.features = nn.ModuleDict({modality: nn.Linear(width, width) for modality in self.modalities})
        seen = len(self.modalities) * width
        self.gates = nn.ModuleDict({modality: nn.Linear(seen, width) for modality in self.modalities})

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Sums the gated features of the present modalities."""
        seen = torch.cat(list(vectors.values()), dim=-1)
        gated = [self.gates[m](seen).sigmoid() * self.features[m](x).tanh() for m, x in vectors.items()]
        return (torch.stack(gated, dim=1) * present[..., None]).sum(dim=1)
