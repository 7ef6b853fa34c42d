"""Gated cross-attention fusion: one modality attends to the others through gates that start closed."""

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ....configuration import PlaitFusionConfig
from ...core.attention import AttentionPlan, PlaitCrossAttention
from ...core.layers import PlaitGatedMLP, PlaitMLP, TanhGate, build_norm
from ...outputs import LayerChoice
from ..attention_plans import AttentionPlanner
from ..base import FusionOutput, Stream
from ..recorder import OutputRecorder
from .cross_attention import QueryFusion


class GatedCrossAttentionFusion(QueryFusion):
    """Layers of cross-attention and MLP over the query stream, each behind a gate that starts closed (the "gated
    xattn-dense" layer of Flamingo, Alayrac et al. 2022, https://arxiv.org/abs/2204.14198, section 2.2):

        y = y + tanh(a) attention(y, context),  y = y + tanh(b) mlp(y)

    with norms before each. At the start a = b = 0: the fused tokens are the unchanged query stream, and the effect of
    other modalities is learned from there. There is no norm at the end. `cross_attentions` are over the context; there
    is no attention inside the query stream.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.planner = AttentionPlanner(config)
        self.layers = nn.ModuleList(
            GatedCrossAttentionLayer(config, number) for number in range(config.num_hidden_layers)
        )

    def fuse(
        self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool
    ) -> FusionOutput:
        """Runs the gated layers on the query stream, with the others as context."""
        (x, mask), (context, context_mask) = self.split_query(streams)
        plan = self.planner.cross_attention(x, context, context_mask, output_attentions)
        recorder = OutputRecorder(len(self.layers), output_hidden_states, output_attentions)
        for layer in self.layers:
            recorder.record_hidden_states({self.query: x})
            x, weights = layer(x, context, plan)
            if weights is not None:
                recorder.cross_attention_weights.append(weights)
        recorder.record_hidden_states({self.query: x})
        return FusionOutput(x, mask, recorder.hidden_states, None, recorder.cross_attentions)


class GatedCrossAttentionLayer(GradientCheckpointingLayer):
    """One layer: gated cross-attention to the context, then a gated MLP."""

    def __init__(self, config: PlaitFusionConfig, layer_idx: int) -> None:
        super().__init__()
        self.cross_attn = PlaitCrossAttention(config, layer_idx)
        self.cross_attn_norm = build_norm(config)
        self.cross_attn_gate = TanhGate()
        self.mlp = (PlaitGatedMLP if config.gated_mlp else PlaitMLP)(config)
        self.mlp_norm = build_norm(config)
        self.mlp_gate = TanhGate()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, context: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor | None]:
        """Returns new x, and the weights if computed; x: (batch, length, width), context: (batch, tokens, width)."""
        update, weights = self.cross_attn(self.cross_attn_norm(x), plan, context=context)
        x = x + self.dropout(self.cross_attn_gate(update))
        return x + self.dropout(self.mlp_gate(self.mlp(self.mlp_norm(x)))), weights
