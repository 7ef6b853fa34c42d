"""Tensor fusion: products of the features of all modalities."""

from torch import Tensor, nn

from ....configuration import PlaitFusionConfig
from ...core.layers import build_activation, build_norm
from ..pooled import PooledFusion

MAX_TENSOR_FEATURES = 2**20  # products in each row


class TensorFusion(PooledFusion):
    """Tensor fusion: every product of one feature of each modality; the constant 1 adds the products of fewer
    modalities (Zadeh et al. 2017, https://arxiv.org/abs/1707.07250, section 4.2; the two layers after it as in section
    4.3):

        z = [W_text x_text; 1] (x) [W_image x_image; 1] (x) ...,  fused = norm(W_2 act(W_1 z + b_1) + b_2)

    The maps W_m have no bias: an absent modality is [0; 1] and does not change the products of the others. Each
    gives `config.tensor_size` numbers, hence (tensor_size + 1) ** modalities products.

    Raises:
        ValueError: more than 2**20 products in each row.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        products, width = (config.tensor_size + 1) ** len(self.modalities), config.hidden_size
        if products > MAX_TENSOR_FEATURES:
            raise ValueError(
                f"tensor fusion of {len(self.modalities)} modalities with tensor_size {config.tensor_size} makes "
                f"{products:,} products for each row (at most {MAX_TENSOR_FEATURES:,}): choose a smaller tensor_size, "
                "or the strategy low_rank_tensor"
            )
        self.maps = nn.ModuleDict({m: nn.Linear(width, config.tensor_size, bias=False) for m in self.modalities})
        self.up_proj = nn.Linear(products, width)
        self.act = build_activation(config.hidden_act)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.down_proj = nn.Linear(width, width)
        self.output_norm = build_norm(config) if config.output_norm else nn.Identity()

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Computes the products of the features, and maps them to the joint width."""
        product = next(iter(vectors.values())).new_ones(present.shape[0], 1)
        for modality, x in vectors.items():
            extended = nn.functional.pad(self.maps[modality](x), (0, 1), value=1.0)
            product = (product[:, :, None] * extended[:, None]).flatten(1)
        hidden = self.dropout(self.act(self.up_proj(product)))
        return self.output_norm(self.down_proj(hidden))
