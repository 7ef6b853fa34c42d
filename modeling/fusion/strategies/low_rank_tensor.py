"""Low-rank tensor fusion: the weights have a low rank, so that the tensor of products is never computed."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ....configuration import PlaitFusionConfig
from ...core.layers import SelfInitializing, build_norm
from ..pooled import PooledFusion


class LowRankTensorFusion(PooledFusion):
    """Tensor fusion with weights of rank `config.tensor_rank` (Liu et al. 2018, https://arxiv.org/abs/1806.00064,
    equation 6), where [x; 1] is the vector with the constant 1 appended, and products are by element:

        h = sum over ranks i of product over m of W_m^(i) [x_m; 1],  fused = norm(h + b)

    The columns of the constant start at one: an absent modality leaves the product unchanged.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.factors = nn.ModuleDict(
            {m: LowRankFactors(config.hidden_size, config.tensor_rank) for m in self.modalities}
        )
        self.output = LearnedBias(config.hidden_size)
        self.output_norm = build_norm(config) if config.output_norm else nn.Identity()

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Multiplies the modalities' factors, and sums over the ranks."""
        product = torch.stack([self.factors[modality](x) for modality, x in vectors.items()]).prod(dim=0)
        return self.output_norm(self.output(product.sum(dim=1)))


class LowRankFactors(SelfInitializing):
    """Computes W^(i) [x; 1] for each rank i; the column of the constant, `bias`, starts at one."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rank * width, width))
        self.bias = nn.Parameter(torch.empty(rank * width))

    def init_weights(self, std: float) -> None:
        """Draws the weight from a normal distribution, and sets the column of the constant to one."""
        init.normal_(self.weight, std=std)
        init.ones_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, rank, width) of x (batch, width)."""
        return nn.functional.linear(x, self.weight, self.bias).unflatten(-1, (-1, x.shape[-1]))


class LearnedBias(SelfInitializing):
    """Computes x + b; b starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(width))

    def init_weights(self, std: float) -> None:
        """Sets the bias to zero."""
        init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x + b, (batch, width)."""
        return x + self.bias
