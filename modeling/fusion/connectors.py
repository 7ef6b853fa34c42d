"""Connectors: each maps a tower's stream to the joint width of the fusion."""

import copy

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ...configuration import PlaitFusionConfig
from ..core.attention import AttentionPlan, PlaitCrossAttention, find_attention_function
from ..core.layers import LearnedTokens, PlaitGatedMLP, PlaitMLP, build_norm
from ..core.masks import build_cross_mask
from ..core.transformer import LayerPlans, PlaitLayer
from .base import Stream, insert_missing_token


class LinearConnector(nn.Module):
    """Computes W x + b, token by token (LLaVA, Liu et al. 2023, https://arxiv.org/abs/2304.08485, equation 1). It also
    projects if the widths agree, so that every tower has its own map into the joint space."""

    def __init__(self, config: PlaitFusionConfig, width: int) -> None:
        super().__init__()
        self.input_size = width
        self.proj = nn.Linear(width, config.hidden_size)

    def forward(self, stream: Stream) -> Stream:
        """Maps the tokens, (batch, length, width), to (batch, length, hidden_size)."""
        x, mask = stream.clean()
        return Stream(self.proj(x), mask)


class MLPConnector(nn.Module):
    """Computes W_2 gelu(W_1 x), token by token (LLaVA 1.5, Liu et al. 2023, https://arxiv.org/abs/2310.03744)."""

    def __init__(self, config: PlaitFusionConfig, width: int) -> None:
        super().__init__()
        self.input_size = width
        self.up_proj = nn.Linear(width, config.hidden_size)
        self.act = ACT2FN["gelu"]
        self.down_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, stream: Stream) -> Stream:
        """Maps the tokens, (batch, length, width), to (batch, length, hidden_size)."""
        x, mask = stream.clean()
        return Stream(self.down_proj(self.act(self.up_proj(x))), mask)


class ResamplerConnector(nn.Module):
    """The Perceiver resampler: any number of tokens in, `num_queries` out (Flamingo, Alayrac et al. 2022,
    https://arxiv.org/abs/2204.14198, section 2.1). Learned queries q attend to the projected tokens x and themselves:

        q = q + attention(q, [x; q]),  q = q + mlp(q)

    with norms before each. A row without tokens gets a mask without tokens.
    """

    def __init__(self, config: PlaitFusionConfig, width: int) -> None:
        super().__init__()
        self.input_size = width
        self.config = config
        self.proj = nn.Linear(width, config.hidden_size)
        self.queries = LearnedTokens(config.num_queries, config.hidden_size)
        self.layers = nn.ModuleList(ResamplerLayer(config, number) for number in range(config.resampler_layers))

    def forward(self, stream: Stream) -> Stream:
        """Maps the tokens, (batch, length, width), to (batch, num_queries, hidden_size)."""
        x, mask = stream.clean()
        x, queries = self.proj(x), self.queries(x.shape[0])
        plan = self.build_plan(queries, x, mask)
        for layer in self.layers:
            queries = layer(queries, x, plan)
        return Stream(queries, stream.present[:, None].expand(queries.shape[:2]))

    def build_plan(self, queries: Tensor, x: Tensor, mask: Tensor) -> AttentionPlan:
        """Plans the attention of the queries to the tokens and each other."""
        mask = torch.cat((mask, mask.new_ones(queries.shape[:2])), dim=1)
        allowed = build_cross_mask(self.config, queries, x, mask)
        return AttentionPlan(find_attention_function(self.config._attn_implementation), allowed)


class ResamplerLayer(GradientCheckpointingLayer):
    """One layer of the resampler: attention of the queries to tokens and queries, then an MLP."""

    def __init__(self, config: PlaitFusionConfig, layer_idx: int) -> None:
        super().__init__()
        self.cross_attn = PlaitCrossAttention(config, layer_idx)
        self.cross_attn_norm = build_norm(config)
        self.context_norm = build_norm(config)
        self.mlp = (PlaitGatedMLP if config.gated_mlp else PlaitMLP)(config)
        self.mlp_norm = build_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, queries: Tensor, x: Tensor, plan: AttentionPlan) -> Tensor:
        """Returns new queries; queries: (batch, num_queries, hidden_size), x: (batch, length, hidden_size)."""
        normed = self.cross_attn_norm(queries)
        context = torch.cat((self.context_norm(x), normed), dim=1)
        update, _ = self.cross_attn(normed, plan, context=context)
        queries = queries + self.dropout(update)
        return queries + self.dropout(self.mlp(self.mlp_norm(queries)))


class QFormerConnector(nn.Module):
    """The Q-Former: any number of tokens in, `num_queries` out (BLIP-2, Li et al. 2023,
    https://arxiv.org/abs/2301.12597, section 3.1, the image side). Learned queries q attend to each other, then to the
    projected tokens x:

        q = q + attention(q, q),  q = q + attention(q, x),  q = q + mlp(q)

    in the layers and norms of the core. A row without tokens gets a mask without tokens.
    """

    def __init__(self, config: PlaitFusionConfig, width: int) -> None:
        super().__init__()
        self.input_size = width
        self.proj = nn.Linear(width, config.hidden_size)
        self.queries = LearnedTokens(config.num_queries, config.hidden_size)
        self.config = config
        self.layers = nn.ModuleList(
            PlaitLayer(build_qformer_config(config), number) for number in range(config.resampler_layers)
        )
        self.output_norm = build_norm(config) if config.output_norm else nn.Identity()

    def forward(self, stream: Stream) -> Stream:
        """Maps the tokens, (batch, length, width), to (batch, num_queries, hidden_size)."""
        x, mask = stream.clean()
        x, queries = self.proj(x), self.queries(x.shape[0])
        # attention over no tokens at all is undefined
        x, mask = insert_missing_token(Stream(x, mask), torch.zeros_like(queries[:, :1]))
        attend = find_attention_function(self.config._attn_implementation)
        plans = LayerPlans(
            AttentionPlan(attend), AttentionPlan(attend, build_cross_mask(self.config, queries, x, mask))
        )
        for layer in self.layers:
            queries, *_ = layer(queries, plans, x)
        return Stream(self.output_norm(queries), stream.present[:, None].expand(queries.shape[:2]))


def build_qformer_config(config: PlaitFusionConfig) -> PlaitFusionConfig:
    """Returns the fusion's config with cross-attention in every layer."""
    changed = copy.copy(config)
    changed.cross_attention, changed.cross_attention_layers, changed.context_size = True, None, config.hidden_size
    return changed


CONNECTORS: dict[str, type[nn.Module]] = {
    "linear": LinearConnector,
    "mlp": MLPConnector,
    "resampler": ResamplerConnector,
    "qformer": QFormerConnector,
}
# connectors whose number of tokens does not depend on the tower's
RESAMPLING_CONNECTORS = ("resampler", "qformer")


def build_connector(config: PlaitFusionConfig, width: int) -> nn.Module:
    """Builds the connector that `config.connector` names, from a tower of width `width` to `config.hidden_size`."""
    return CONNECTORS[config.connector](config, width)
