"""Late fusion by concatenation: one projection of all vectors."""

import torch
from torch import Tensor, nn

from ....configuration import PlaitFusionConfig
from ...core.layers import LearnedTokens
from ..pooled import PooledFusion


class LateConcatenatedFusion(PooledFusion):
    """Late fusion by concatenation: the concatenated vectors, projected to the joint width (the shared representation
    of Ngiam et al. 2011, "Multimodal Deep Learning", ICML, section 3.2, with a linear map):

        fused = W [x_text; x_image; ...] + b

    A learned vector replaces a modality that the row lacks.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        width = config.hidden_size
        self.missing = nn.ModuleDict({modality: LearnedTokens(1, width) for modality in self.modalities})
        self.proj = nn.Linear(len(self.modalities) * width, width)

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Concatenates the vectors, and projects them to the joint width."""
        columns = zip(vectors.items(), present.split(1, dim=1), strict=True)
        filled = [torch.where(mask, x, self.missing[m](x.shape[0])[:, 0]) for (m, x), mask in columns]
        return self.proj(torch.cat(filled, dim=-1))
