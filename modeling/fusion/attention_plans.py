"""How attention is computed, for strategies with layers of their own: decided once a call."""

from torch import Tensor, nn

from ...configuration import PlaitFusionConfig
from ..core.attention import AttentionPlan, eager_attention, find_attention_function
from ..core.masks import build_cross_mask, build_self_masks, with_attention
from ..core.rotary import PlaitRotaryEmbedding
from .base import compute_token_positions


class AttentionPlanner(nn.Module):
    """Plans for attention inside a stream and from one stream to another. Batches are not packed here: every layer
    brings the streams together anew, and real tokens would be packed and unpacked each time."""

    def __init__(self, config: PlaitFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = None if config.rope_parameters is None else PlaitRotaryEmbedding(config)

    def self_attention(self, x: Tensor, mask: Tensor, eager: bool = False) -> AttentionPlan:
        """x: (batch, length, width) over itself; mask: (batch, length); `eager` where the weights are asked for."""
        attend, config = self.select_implementation(eager)
        positions = compute_token_positions(mask)
        (allowed,) = build_self_masks(config, {"full_attention"}, x, mask, positions, None).values()
        return AttentionPlan(attend, allowed, None if self.rotary is None else self.rotary(x, positions))

    def cross_attention(self, x: Tensor, context: Tensor, mask: Tensor, eager: bool = False) -> AttentionPlan:
        """x: (batch, length, width) over context: (batch, tokens, width); mask: (batch, tokens)."""
        attend, config = self.select_implementation(eager)
        return AttentionPlan(attend, build_cross_mask(config, x, context, mask))

    def select_implementation(self, eager: bool) -> tuple:
        if eager:
            return eager_attention, with_attention(self.config, "eager")
        return find_attention_function(self.config._attn_implementation), self.config
