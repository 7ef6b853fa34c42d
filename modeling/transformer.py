"""The one transformer: every native tower, decoder and joint encoder is an embedder, this stack and a pooler."""

import copy
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.import_utils import is_torchdynamo_compiling

from ..configuration import PlaitTransformerConfig
from .attention import AttentionPlan, PlaitAttention, PlaitCrossAttention, attention_function, eager_attention
from .layers import LayerScale, PlaitGatedMLP, PlaitMLP, norm_of
from .outputs import LayerChoice, chosen
from .packing import PackedMask, Packing, pack_rows, packed_attention
from .rotary import PlaitRotaryEmbedding

CAUSAL_MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}


class TransformerOutput(NamedTuple):
    """last_hidden_state: (batch, length, width); hidden_states: one more than there are layers; attentions and
    cross_attentions: (batch, heads, length, keys) a layer. None where not asked for."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class PlaitLayer(GradientCheckpointingLayer):
    """Self-attention, cross-attention where there is one, and an MLP, each added to the running tokens."""

    def __init__(self, config: PlaitTransformerConfig, layer_idx: int) -> None:
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.self_attn = PlaitAttention(config, layer_idx, is_causal=config.is_causal)
        self.self_attn_norm = norm_of(config)
        self.self_attn_scale = scale_of(config)
        if config.cross_attention:
            self.cross_attn = PlaitCrossAttention(config, layer_idx)
            self.cross_attn_norm = norm_of(config)
            self.cross_attn_scale = scale_of(config)
        self.mlp = (PlaitGatedMLP if config.gated_mlp else PlaitMLP)(config)
        self.mlp_norm = norm_of(config)
        self.mlp_scale = scale_of(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        x: Tensor,
        plan: AttentionPlan,
        cross_plan: AttentionPlan | None = None,
        context: Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x: (batch, length, width) to the same, and the weights of both attentions where computed."""
        cross_weights = None
        update, weights = self.self_attn(self.enter(x, self.self_attn_norm), plan, past_key_values)
        x = self.residual(x, update, self.self_attn_norm, self.self_attn_scale)
        if cross_plan is not None:
            entered = self.enter(x, self.cross_attn_norm)
            update, cross_weights = self.cross_attn(entered, cross_plan, past_key_values, context)
            x = self.residual(x, update, self.cross_attn_norm, self.cross_attn_scale)
        update = self.mlp(self.enter(x, self.mlp_norm))
        return self.residual(x, update, self.mlp_norm, self.mlp_scale), weights, cross_weights

    def enter(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x) if self.pre_norm else x

    def residual(self, x: Tensor, update: Tensor, norm: nn.Module, scale: nn.Module) -> Tensor:
        """x + f(norm(x)) when the norm comes first, norm(x + f(x)) when it comes last."""
        x = x + self.dropout(scale(update))
        return x if self.pre_norm else norm(x)


def scale_of(config: PlaitTransformerConfig) -> nn.Module:
    return nn.Identity() if config.layer_scale is None else LayerScale(config.hidden_size, config.layer_scale)


class PlaitTransformer(nn.Module):
    """Stack of layers over embedded tokens, (batch, length, width) in and out."""

    def __init__(self, config: PlaitTransformerConfig, input_size: int | None = None) -> None:
        super().__init__()
        self.config = config
        input_size = input_size or config.hidden_size
        self.input_norm = norm_of(config, input_size) if config.input_norm else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        projected = input_size != config.hidden_size
        self.input_proj = nn.Linear(input_size, config.hidden_size) if projected else nn.Identity()
        self.rotary = PlaitRotaryEmbedding(config) if config.rope_parameters is not None else None
        self.layers = nn.ModuleList(PlaitLayer(config, number) for number in range(config.num_hidden_layers))
        self.output_norm = norm_of(config) if config.output_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        output_hidden_states: LayerChoice = False,
        output_attentions: bool = False,
    ) -> TransformerOutput:
        """x: (batch, length, width); attention_mask: (batch, length[, with the cached ones]), non-zero where there is
        a token, or a 4-D mask; position_ids: (batch or 1, length); context: (batch, tokens, width) with its mask."""
        recorded = output_hidden_states or output_attentions
        if not recorded and past_key_values is None and self.packable(attention_mask):
            return TransformerOutput(self.packed(x, attention_mask, position_ids, context, context_mask))
        config = with_attention(self.config, "eager") if output_attentions else self.config
        attend = eager_attention if output_attentions else attention_function(config._attn_implementation)
        masks = self.masks(config, x, attention_mask, position_ids, past_key_values)
        rotary = self.positions(x, position_ids, past_key_values)
        plans = {kind: AttentionPlan(attend, mask, rotary) for kind, mask in masks.items()}
        cross_plan = None
        if self.config.cross_attention:
            cross_plan = AttentionPlan(attend, cross_mask(config, x, context, context_mask))
        return self.run(x, plans, cross_plan, context, past_key_values, output_hidden_states, output_attentions)

    def run(
        self,
        x: Tensor,
        plans: dict[str, AttentionPlan],
        cross_plan: AttentionPlan | None,
        context: Tensor | None,
        past_key_values: Cache | None = None,
        output_hidden_states: LayerChoice = False,
        output_attentions: bool = False,
    ) -> TransformerOutput:
        x = self.input_proj(self.dropout(self.input_norm(x)))
        wanted = chosen(output_hidden_states, 1 + len(self.layers))
        states, weights, cross_weights = [x if 0 in wanted else None], [], []
        for number, (layer, kind) in enumerate(zip(self.layers, self.layer_types, strict=True), start=1):
            x, *seen = layer(x, plans[kind], cross_plan, context, past_key_values=past_key_values)
            states.append(x if number in wanted else None)
            if output_attentions:
                weights.append(seen[0])
                cross_weights.append(seen[1])
        x = self.output_norm(x)
        if self.config.tie_last_hidden_state and states[-1] is not None:
            states[-1] = x
        return TransformerOutput(
            x,
            tuple(states) if wanted else None,
            tuple(weights) if output_attentions else None,
            tuple(cross_weights) if output_attentions and cross_plan is not None else None,
        )

    def packed(
        self,
        x: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None,
        context: Tensor | None,
        context_mask: Tensor | None,
    ) -> Tensor:
        """The same on real tokens alone; positions come from the padded grid."""
        if context is not None and context_mask is None:
            context_mask = attention_mask.new_ones(context.shape[:2])
        rows, context_rows = pack_rows(attention_mask, context_mask)
        implementation = self.config._attn_implementation
        rotary = self.positions(x, position_ids, None, rows)
        plan = AttentionPlan(packed_attention, PackedMask(rows, rows, implementation), rotary)
        cross_plan = None
        if context is not None and context_rows is not None:
            context = context_rows.pack(context)
            cross_plan = AttentionPlan(packed_attention, PackedMask(rows, context_rows, implementation))
        plans = dict.fromkeys(self.layer_types, plan)
        return rows.unpack(self.run(rows.pack(x), plans, cross_plan, context).last_hidden_state)

    def packable(self, attention_mask: Tensor | None) -> TypeGuard[Tensor]:
        """Packing pays when there is padding; a compiled or exported graph cannot depend on how much."""
        if attention_mask is None or attention_mask.ndim != 2 or not self.config.packing or not len(self.layers):
            return False
        if is_torchdynamo_compiling() or self.config._attn_implementation not in ("eager", "sdpa"):
            return False
        window = self.config.sliding_window if "sliding_attention" in self.layer_types else None
        if window is not None and attention_mask.shape[1] > window:
            return False
        return not bool(attention_mask.all())

    @property
    def layer_types(self) -> list[str]:
        return self.config.layer_types or ["full_attention"] * self.config.num_hidden_layers

    def masks(
        self,
        config: PlaitTransformerConfig,
        x: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: Cache | None,
    ) -> dict[str, Any]:
        """One mask for each kind of layer, in the form that the attention implementation wants."""
        common = {"config": config, "inputs_embeds": x, "attention_mask": attention_mask}
        if not config.is_causal:
            return dict.fromkeys(self.layer_types, create_bidirectional_mask(**common))
        common |= {"past_key_values": past_key_values, "position_ids": position_ids}
        return {kind: CAUSAL_MASKS[kind](**common) for kind in set(self.layer_types)}

    def positions(
        self, x: Tensor, position_ids: Tensor | None, past_key_values: Cache | None, packing: Packing | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine of the rotary positions, or None where the core has none."""
        if self.rotary is None:
            return None
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(x.shape[1], device=x.device)[None] + past
        return self.rotary(x, position_ids if packing is None else packing.pack(position_ids))


def cross_mask(config: PlaitTransformerConfig, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Any:
    if context is None or mask is None:
        return None
    return create_bidirectional_mask(config=config, inputs_embeds=x, attention_mask=mask, encoder_hidden_states=context)


def with_attention(config: PlaitTransformerConfig, implementation: str) -> PlaitTransformerConfig:
    """A copy of the config with another attention implementation."""
    changed = copy.copy(config)
    changed._attn_implementation = implementation
    return changed
