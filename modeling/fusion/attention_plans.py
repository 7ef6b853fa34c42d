"""Plans of attention for strategies with their own layers: implementation, mask and rotary positions, once a call."""

from torch import Tensor, nn

from ...configuration import PlaitFusionConfig
from ..core.attention import AttentionPlan, eager_attention, find_attention_function
from ..core.masks import build_cross_mask, build_self_masks, with_attention
from ..core.rotary import PlaitRotaryEmbedding
from .base import compute_token_positions


class AttentionPlanner(nn.Module):
    """Builds plans for attention inside a stream and from one stream to another. It does not pack batches: every layer
    joins the streams again, so real tokens would be packed and unpacked in each layer."""

    def __init__(self, config: PlaitFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = None if config.rope_parameters is None else PlaitRotaryEmbedding(config)

    def self_attention(self, x: Tensor, mask: Tensor, eager: bool = False) -> AttentionPlan:
        """Plans the self-attention of x (batch, length, width), mask (batch, length); `eager`: with weights."""
        attend, config = self.select_implementation(eager)
        positions = compute_token_positions(mask)
        (allowed,) = build_self_masks(config, {"full_attention"}, x, mask, positions, None).values()
        return AttentionPlan(attend, allowed, None if self.rotary is None else self.rotary(x, positions))

    def cross_attention(self, x: Tensor, context: Tensor, mask: Tensor, eager: bool = False) -> AttentionPlan:
        """Plans the cross-attention of x (batch, length, width) to context (batch, tokens, width) with its mask (batch,
        tokens)."""
        attend, config = self.select_implementation(eager)
        return AttentionPlan(attend, build_cross_mask(config, x, context, mask))

    def select_implementation(self, eager: bool) -> tuple:
        """Returns the attention function, and the config that names it."""
        if eager:
            return eager_attention, with_attention(self.config, "eager")
        return find_attention_function(self.config._attn_implementation), self.config
