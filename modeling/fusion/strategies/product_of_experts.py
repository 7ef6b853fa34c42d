"""Product of experts: modalities with a higher precision count for more."""

import torch
from torch import Tensor, nn

from ....configuration import PlaitFusionConfig
from ..pooled import PooledFusion


class ProductOfExpertsFusion(PooledFusion):
    """Product of experts: each modality gives a Gaussian, with mean mu_m and precision T_m for each feature. Its
    product with a standard normal prior (mean 0, precision 1) and those of the other present modalities is a Gaussian
    again, whose mean is the fused vector (MVAE, Wu and Goodman 2018, https://arxiv.org/abs/1802.05335, section 2.2):

        mu_m = W_m x_m + b_m,  T_m = softplus(U_m x_m + c_m)
        fused = (sum over present m of mu_m T_m) / (1 + sum over present m of T_m)

    A modality that a row lacks is left out of the product.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        width = config.hidden_size
        self.means = nn.ModuleDict({modality: nn.Linear(width, width) for modality in self.modalities})
        self.precisions = nn.ModuleDict({modality: nn.Linear(width, width) for modality in self.modalities})

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Computes the mean of the product of Gaussians."""
        means = torch.stack([self.means[modality](x) for modality, x in vectors.items()], dim=1)
        logits = torch.stack([self.precisions[modality](x) for modality, x in vectors.items()], dim=1)
        precisions = nn.functional.softplus(logits) * present[..., None]
        return (means * precisions).sum(dim=1) / (1 + precisions.sum(dim=1))
