"""The transformer that every native tower, decoder and joint encoder is made of: a stack of layers between an embedder
and a pooler."""

from functools import partial
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from ...configuration import PlaitTransformerConfig
from ..graphs import is_recording_graph
from ..outputs import LayerChoice, select_layers
from .adaptive import AdaptiveModulation, Modulation, build_plain_norm, modulate
from .attention import (
    NO_CONTEXT,
    AttentionPlan,
    PlaitCrossAttention,
    build_self_attention,
    eager_attention,
    find_attention_function,
)
from .grid import GridOffsets, check_takes_bias, compute_grid_offsets
from .layers import PlaitGatedMLP, PlaitMLP, ResidualSublayers, build_norm
from .masks import build_cross_mask, build_self_masks, with_attention
from .packing import PackedMask, Packing, pack_rows, packed_attention
from .rotary import PlaitRotaryEmbedding


class TransformerOutput(NamedTuple):
    """The output of `PlaitTransformer`. last_hidden_state: (batch, length, width); hidden_states: one before the first
    layer and one after each; attentions, cross_attentions: (batch, heads, length, keys) per layer. None unless
    requested."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class LayerPlans(NamedTuple):
    """The plans of a layer's self-attention (`own`) and cross-attention (`cross`; None skips it), and the `condition`
    of adaptive norms, (batch, condition width)."""

    own: AttentionPlan
    cross: AttentionPlan | None = None
    condition: Tensor | None = None


class LayerOutput(NamedTuple):
    """The output of `PlaitLayer`. x: (batch, length, width); weights, cross_weights: (batch, heads, length, keys) of
    self- and cross-attention, None if not computed."""

    x: Tensor
    weights: Tensor | None = None
    cross_weights: Tensor | None = None


class PlaitLayer(ResidualSublayers, GradientCheckpointingLayer):
    """A transformer layer: self-attention, cross-attention if the config has it, and an MLP, each a residual
    sublayer."""

    def __init__(self, config: PlaitTransformerConfig, layer_idx: int) -> None:
        super().__init__(config)
        self.add_sublayer("self_attn", build_self_attention(config, layer_idx))
        self.crosses = config.has_cross_attention(layer_idx)
        if self.crosses:
            cross_attn = PlaitCrossAttention(config, layer_idx, context_size=config.context_size)
            self.add_sublayer("cross_attn", cross_attn, gated=config.gated_cross_attention)
        self.add_sublayer("mlp", (PlaitGatedMLP if config.gated_mlp else PlaitMLP)(config))

    def forward(
        self, x: Tensor, plans: LayerPlans, context: Tensor | None = None, past_key_values: Cache | None = None
    ) -> LayerOutput:
        """Maps x: (batch, length, width) to the same shape; context: (batch, tokens, context width)."""
        x, weights = self.residual(x, "self_attn", plans.own, past_key_values)
        cross_weights = None
        if self.crosses and plans.cross is not None:
            x, cross_weights = self.residual(x, "cross_attn", plans.cross, past_key_values, context)
        x, _ = self.residual(x, "mlp")
        return LayerOutput(x, weights, cross_weights)


class PlaitAdaptiveLayer(PlaitLayer):
    """A transformer layer whose self-attention and MLP are scaled, shifted and gated by a condition:
    x + gate f(norm(x) (1 + scale) + shift) (DiT, Peebles and Xie 2023, https://arxiv.org/abs/2212.09748, figure 3)."""

    def __init__(self, config: PlaitTransformerConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn_norm, self.mlp_norm = build_plain_norm(config), build_plain_norm(config)
        self.modulation = AdaptiveModulation(config, sublayers=2)

    def forward(
        self, x: Tensor, plans: LayerPlans, context: Tensor | None = None, past_key_values: Cache | None = None
    ) -> LayerOutput:
        """Maps x: (batch, length, width) to the same shape; context: (batch, tokens, context width)."""
        own, mlp = self.modulation(plans.condition)
        x, weights = self.adapt(x, "self_attn", own, plans.own, past_key_values)
        cross_weights = None
        if self.crosses and plans.cross is not None:
            x, cross_weights = self.residual(x, "cross_attn", plans.cross, past_key_values, context)
        x, _ = self.adapt(x, "mlp", mlp)
        return LayerOutput(x, weights, cross_weights)

    def adapt(self, x: Tensor, name: str, modulation: Modulation, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Maps x: (batch, length, width) through one modulated sublayer to the same shape and, for attention, its
        weights."""
        output = getattr(self, name)(modulate(x, getattr(self, f"{name}_norm"), modulation), *inputs)
        update, weights = output if isinstance(output, tuple) else (output, None)
        update = self.dropout(getattr(self, f"{name}_scale")(update))
        return torch.addcmul(x, modulation.gate, update), weights


class PlaitTransformer(nn.Module):
    """A stack of layers over embedded tokens, (batch, length, width) in and out."""

    def __init__(self, config: PlaitTransformerConfig, input_size: int | None = None) -> None:
        super().__init__()
        self.config = config
        input_size = input_size or config.hidden_size
        self.input_norm = build_norm(config, input_size) if config.input_norm else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        projected = input_size != config.hidden_size
        self.input_proj = nn.Linear(input_size, config.hidden_size) if projected else nn.Identity()
        self.rotary = PlaitRotaryEmbedding(config) if config.rope_parameters is not None else None
        layer = PlaitAdaptiveLayer if config.adaptive_norm else PlaitLayer
        self.layers = nn.ModuleList(layer(config, number) for number in range(config.num_hidden_layers))
        self.output_norm = build_norm(config) if config.output_norm else nn.Identity()
        self.layer_types = config.layer_types

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
        blocks: Tensor | None = None,
        condition: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> TransformerOutput:
        """Runs all layers on x: (batch, length, width).

        attention_mask: (batch, cached + new tokens), non-zero for a token, or a 4-D mask, or one mask for each kind of
        layer; position_ids: (batch or 1, length); context: (batch, tokens, width), context_mask: (batch, tokens);
        blocks: (batch, length), -1 or a block's number: tokens of one block attend to each other even if causal;
        condition: (batch, condition width), of adaptive norms; grid: the rows and columns of the patches that x holds,
        for relative positions.
        """
        recorded = output_hidden_states or output_attentions
        if not recorded and past_key_values is None and blocks is None and self.can_pack(attention_mask):
            return TransformerOutput(self.run_packed(x, attention_mask, position_ids, context, context_mask))
        config = with_attention(self.config, "eager") if output_attentions else self.config
        attend = eager_attention if output_attentions else find_attention_function(config._attn_implementation)
        if "flash" in (config._attn_implementation or "") and attention_mask is None and position_ids is not None:
            attend = partial(attend, position_ids=position_ids)  # by which flash kernels separate flattened rows
        if attention_mask is None and not config.is_causal:
            masks = dict.fromkeys(self.layer_types)  # no mask: every token attends to every other
        else:
            masks = build_self_masks(
                config, set(self.layer_types), x, attention_mask, position_ids, past_key_values, blocks
            )
        rotary = self.compute_rotary(x, position_ids, past_key_values)
        if self.config.adaptive_norm and condition is None:
            raise ValueError("adaptive norms need a condition: pass condition, (batch, condition width)")
        offsets = self.compute_offsets(grid, x)
        plans = {kind: AttentionPlan(attend, mask, rotary, offsets) for kind, mask in masks.items()}
        cross_plan = None
        if self.config.cross_attention:
            cross_plan = AttentionPlan(attend, build_cross_mask(config, x, context, context_mask))
        options = (output_hidden_states, output_attentions, condition)
        return self.run(x, plans, cross_plan, context, past_key_values, *options)

    def run(
        self,
        x: Tensor,
        plans: dict[str, AttentionPlan],
        cross_plan: AttentionPlan | None,
        context: Tensor | None,
        past_key_values: Cache | None = None,
        output_hidden_states: LayerChoice = False,
        output_attentions: bool = False,
        condition: Tensor | None = None,
    ) -> TransformerOutput:
        """Runs the layers on x: (batch, length, width) by the attention plan of each kind of layer.

        context: (batch, tokens, width); condition: (batch, condition width).
        """
        x = self.input_proj(self.dropout(self.input_norm(x)))
        recorded = select_layers(output_hidden_states, 1 + len(self.layers)) if output_hidden_states else ()
        states, weights, cross_weights = [x if 0 in recorded else None], [], []
        for number, (layer, kind) in enumerate(zip(self.layers, self.layer_types, strict=True), start=1):
            own = LayerPlans(plans[kind], cross_plan, condition)
            x, *scores = layer(x, own, context, past_key_values=past_key_values)
            states.append(x if number in recorded else None)
            if output_attentions:
                weights.append(scores[0])
                cross_weights.append(scores[1])
        x = self.output_norm(x)
        if self.config.tie_last_hidden_state and states[-1] is not None:
            states[-1] = x
        return TransformerOutput(
            x,
            tuple(states) if recorded else None,
            tuple(weights) if output_attentions else None,
            tuple(cross_weights) if output_attentions and cross_plan is not None else None,
        )

    def run_packed(
        self,
        x: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None,
        context: Tensor | None,
        context_mask: Tensor | None,
    ) -> Tensor:
        """Computes the last hidden state of `forward` on the real tokens only; positions are those of the padded
        batch."""
        if context is not None and context_mask is None:
            context_mask = attention_mask.new_ones(context.shape[:2])
        rows, context_rows = pack_rows(attention_mask, context_mask)
        implementation = self.config._attn_implementation
        rotary = self.compute_rotary(x, position_ids, None, rows)
        plan = AttentionPlan(packed_attention, PackedMask(rows, rows, implementation), rotary)
        cross_plan = None
        if context is None and any(layer.crosses for layer in self.layers):
            raise ValueError(NO_CONTEXT)
        if context is not None and context_rows is not None:
            context = context_rows.pack(context)
            cross_plan = AttentionPlan(packed_attention, PackedMask(rows, context_rows, implementation))
        plans = dict.fromkeys(self.layer_types, plan)
        return rows.unpack(self.run(rows.pack(x), plans, cross_plan, context).last_hidden_state)

    def can_pack(self, attention_mask: Tensor | None) -> TypeGuard[Tensor]:
        """Returns whether this call can be packed: only with padding, and not in a compiled or exported graph, which
        cannot depend on the number of real tokens."""
        if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
            return False
        if not self.config.packing or not len(self.layers):
            return False
        if self.config.adaptive_norm or self.config.relative_grid is not None:
            return False  # a condition is one vector for each row, and offsets are those of a whole grid
        if is_recording_graph() or self.config._attn_implementation not in ("eager", "sdpa"):
            return False
        window = self.config.sliding_window if "sliding_attention" in self.layer_types else None
        if window is not None and attention_mask.shape[1] > window:
            return False
        return not bool(attention_mask.all())

    def compute_rotary(
        self, x: Tensor, position_ids: Tensor | None, past_key_values: Cache | None, packing: Packing | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Computes the cosine and sine of the rotary positions, (batch, 1, length, head_dim) each; None without
        them."""
        if self.rotary is None:
            return None
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(x.shape[1], device=x.device)[None] + past
        return self.rotary(x, position_ids if packing is None else packing.pack(position_ids))

    def compute_offsets(self, grid: tuple[int, int] | None, x: Tensor) -> GridOffsets | None:
        """Computes the offsets between the patches x: (batch, length, width) of a grid; None without relative
        positions. Raises ValueError for a grid that does not have this length."""
        if self.config.relative_grid is None or grid is None:
            return None
        check_takes_bias(self.config)
        if grid[0] * grid[1] != x.shape[1]:
            raise ValueError(f"x has {x.shape[1]} tokens, but the grid {grid} has {grid[0] * grid[1]}")
        return compute_grid_offsets(grid, x.device)
