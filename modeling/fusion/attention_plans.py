"""How attention is computed, for strategies with layers of their own: decided once a call."""

from torch import Tensor, nn

from ...configuration import PlaitFusionConfig
from ..core.attention import AttentionPlan, attention_function, eager_attention
from ..core.masks import cross_mask, self_masks, with_attention
from ..core.rotary import PlaitRotaryEmbedding
from .base import positions_of


class Planner(nn.Module):
    """Plans for attention inside a stream and from one stream to another. Batches are not packed here: every layer
    brings the streams together anew, and real tokens would be packed and unpacked each time."""

    def __init__(self, config: PlaitFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = None if config.rope_parameters is None else PlaitRotaryEmbedding(config)

    def inside(self, x: Tensor, mask: Tensor, eager: bool = False) -> AttentionPlan:
        """x: (batch, length, width) over itself; mask: (batch, length); `eager` where the weights are asked for."""
        attend, config = self.implementation(eager)
        positions = positions_of(mask)
        (allowed,) = self_masks(config, {"full_attention"}, x, mask, positions, None).values()
        return AttentionPlan(attend, allowed, None if self.rotary is None else self.rotary(x, positions))

    def across(self, x: Tensor, context: Tensor, mask: Tensor, eager: bool = False) -> AttentionPlan:
        """x: (batch, length, width) over context: (batch, tokens, width); mask: (batch, tokens)."""
        attend, config = self.implementation(eager)
        return AttentionPlan(attend, cross_mask(config, x, context, mask))

    def implementation(self, eager: bool) -> tuple:
        if eager:
            return eager_attention, with_attention(self.config, "eager")
        return attention_function(self.config._attn_implementation), self.config
