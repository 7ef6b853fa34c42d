"""Heads: what reads the fused tokens."""

from torch import Tensor

from ...configuration import PlaitConfig, PlaitRNNConfig, PlaitTowerConfig
from ..core.pooling import compute_pooled_width, mean_token
from ..outputs import PlaitModelOutput


def compute_vector_width(config: PlaitConfig) -> int:
    """Width of the vector that `pool_output` gives."""
    single = config.single
    if isinstance(single, PlaitRNNConfig):
        return single.pooler_size or single.hidden_size
    return compute_pooled_width(single) if isinstance(single, PlaitTowerConfig) else config.hidden_size


def pool_output(outputs: PlaitModelOutput) -> Tensor:
    """One vector a row, (batch, width): the pooled output, or the mean over tokens where nothing pools."""
    if outputs.pooler_output is not None:
        return outputs.pooler_output
    return mean_token(outputs.last_hidden_state, outputs.mask)
