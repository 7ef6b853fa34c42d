"""Heads: what reads the fused tokens."""

from torch import Tensor, nn
from transformers.activations import ACT2FN

from ...configuration import PlaitConfig, PlaitRNNConfig, PlaitTextConfig, PlaitTowerConfig
from ..core.pooling import mean_token, pooled_width
from ..outputs import PlaitModelOutput


def vector_width(config: PlaitConfig) -> int:
    """Width of the vector that `vector_of` gives."""
    single = config.single
    if isinstance(single, PlaitRNNConfig):
        return single.pooler_size or single.hidden_size
    return pooled_width(single) if isinstance(single, PlaitTowerConfig) else config.hidden_size


def vector_of(outputs: PlaitModelOutput) -> Tensor:
    """One vector a row, (batch, width): the pooled output, or the mean over tokens where nothing pools."""
    if outputs.pooler_output is not None:
        return outputs.pooler_output
    return mean_token(outputs.last_hidden_state, outputs.mask)


class MaskedLMHead(nn.Module):
    """dense -> activation -> norm, before the projection to the vocabulary (BERT, Devlin et al. 2019)."""

    def __init__(self, config: PlaitTextConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.embedding_size)
        self.act = ACT2FN[config.mlm_act]
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.dense(x)))
