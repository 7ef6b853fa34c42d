"""Late fusion by learned weights that are equal for every row."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ....configuration import PlaitFusionConfig
from ...core.layers import SelfInitializing
from ..pooled import PooledFusion, masked_softmax, weighted_sum


class LateWeightedFusion(PooledFusion):
    """Late fusion by one learned weight for each modality, shared by all rows (linear weighted fusion, Atrey et al.
    2010, "Multimodal fusion for multimedia analysis: a survey", section 3.1.1); the weights of the present modalities
    add up to 1:

        a = softmax over present m of w_m,  fused = sum of a_m x_m

    The weights start equal, which gives the mean of the present modalities.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.weights = nn.ModuleDict({modality: ModalityWeight() for modality in self.modalities})

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Sums the vectors, weighted by the softmax of the learned weights."""
        scores = torch.cat([self.weights[modality](present.shape[0]) for modality in vectors], dim=1)
        return weighted_sum(masked_softmax(scores, present), vectors)


class ModalityWeight(SelfInitializing):
    """A learned number that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))

    def init_weights(self, std: float) -> None:
        """Sets the number to zero."""
        init.zeros_(self.weight)

    def forward(self, batch: int) -> Tensor:
        """Returns the number for each row: (batch, 1)."""
        return self.weight.expand(batch, 1)
