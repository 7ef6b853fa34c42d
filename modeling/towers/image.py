"""The image tower of patches."""

import torch
from torch import Tensor, nn

from ...configuration import PlaitVisionConfig
from ..core.pooling import finish, pooler_of
from ..core.transformer import PlaitTransformer
from ..outputs import LayerChoice, TowerOutput
from .patches import ImageEmbeddings


class ImageTower(nn.Module):
    """Pictures to tokens: ViT and its kin."""

    def __init__(self, config: PlaitVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = ImageEmbeddings(config)
        self.transformer = PlaitTransformer(config)
        self.pooler = pooler_of(config)

    def forward(
        self, pixel_values: Tensor, output_hidden_states: LayerChoice = False, output_attentions: bool = False
    ) -> TowerOutput:
        """pixel_values: (images, channels, height, width)."""
        x = self.embeddings(pixel_values)
        result = self.transformer(x, output_hidden_states=output_hidden_states, output_attentions=output_attentions)
        return finish(result, x.new_ones(x.shape[:2], dtype=torch.bool), self.pooler)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.patch_embedding = value
