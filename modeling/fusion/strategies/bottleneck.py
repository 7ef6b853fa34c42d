"""Bottleneck fusion: modalities exchange information only through a few shared tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from ....configuration import PlaitFusionConfig
from ...core.attention import AttentionPlan
from ...core.layers import LearnedTokens, build_norm
from ...core.transformer import LayerPlans, PlaitLayer
from ...outputs import LayerChoice
from ..attention_plans import AttentionPlanner
from ..base import Fusion, FusionOutput, Stream, add_modality_types
from ..recorder import OutputRecorder, scatter_keys


class BottleneckFusion(Fusion):
    """Bottleneck fusion: one stack of layers for each modality, over its own tokens and `config.num_bottlenecks` tokens
    f shared by all (MBT, Nagrani et al. 2021, https://arxiv.org/abs/2107.00135, equations 8 and 9):

        [x_m; f_m] = layer_m([x_m; f]),  f = mean over present m of f_m

    The fused tokens are the tokens of the streams. `attentions` are over all streams and, last, the shared tokens.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.types = nn.ModuleDict({modality: LearnedTokens(1, config.hidden_size) for modality in self.modalities})
        self.bottlenecks = LearnedTokens(config.num_bottlenecks, config.hidden_size)
        self.planner = AttentionPlanner(config)
        self.layers = nn.ModuleList(
            nn.ModuleDict({modality: PlaitLayer(config, number) for modality in self.modalities})
            for number in range(config.num_hidden_layers)
        )
        self.output_norm = build_norm(config) if config.output_norm else nn.Identity()

    def fuse(
        self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool
    ) -> FusionOutput:
        """Runs the layers of all streams, exchanging the shared tokens after each layer."""
        present = torch.stack([stream.present for stream in streams.values()], dim=1)
        shared = self.bottlenecks(present.shape[0])
        share = (present / present.sum(dim=1, keepdim=True)).to(shared.dtype)
        x = {m: stream.tokens for m, stream in zip(streams, add_modality_types(streams, self.types), strict=True)}
        plans = {m: self.plan_attention(x[m], streams[m].mask, shared, output_attentions) for m in x}
        recorder = OutputRecorder(len(self.layers), output_hidden_states, output_attentions)
        for layers in self.layers:
            recorder.record_hidden_states(x)
            x, updates = self.run_layer(layers, x, shared, plans, recorder)
            shared = torch.einsum("bm,mblw->blw", share, updates)
        tokens = self.output_norm(torch.cat(list(x.values()), dim=1))
        recorder.record_hidden_states({"all": tokens})
        mask = torch.cat([stream.mask for stream in streams.values()], dim=1)
        return FusionOutput(tokens, mask, hidden_states=recorder.hidden_states, attentions=recorder.attentions)

    def plan_attention(self, x: Tensor, mask: Tensor, shared: Tensor, eager: bool) -> AttentionPlan:
        """Plans the attention of a stream to itself and to the shared tokens, which follow it."""
        mask = nn.functional.pad(mask, (0, shared.shape[1]), value=True)
        return self.planner.self_attention(torch.cat((x, shared), dim=1), mask, eager)

    def run_layer(
        self,
        layers: Any,
        x: dict[str, Tensor],
        shared: Tensor,
        plans: dict[str, AttentionPlan],
        recorder: OutputRecorder,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Runs one layer of every stream. Returns the streams' tokens, and each stream's update of the shared tokens,
        (modalities, batch, count, width)."""
        found = {m: layers[m](torch.cat((x[m], shared), dim=1), LayerPlans(plans[m])) for m in x}
        lengths = {m: tokens.shape[1] for m, tokens in x.items()}
        if recorder.output_attentions:
            every = {**lengths, "shared": shared.shape[1]}
            own = [scatter_keys(found[m][1][:, :, : lengths[m]], every, [m, "shared"]) for m in x]
            recorder.attention_weights.append(torch.cat(own, dim=2))
        updates = torch.stack([found[m][0][:, lengths[m] :] for m in x])
        return {m: found[m][0][:, : lengths[m]] for m in x}, updates
