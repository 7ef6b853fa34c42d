"""Co-attention: every modality cross-attends to all the others."""

from typing import Any

import torch
from torch import Tensor, nn

from ....configuration import PlaitFusionConfig
from ...core.layers import LearnedTokens, build_norm
from ...core.transformer import LayerPlans, PlaitLayer
from ...outputs import LayerChoice
from ..attention_plans import AttentionPlanner
from ..base import (
    Fusion,
    FusionOutput,
    Stream,
    add_modality_types,
    check_modality_count,
    concatenate_streams,
    insert_missing_token,
    require_cross_attention,
)
from ..recorder import OutputRecorder, scatter_keys


class CoAttentionFusion(Fusion):
    """Co-attention: one stack of layers for each modality; in each layer its tokens attend to each other, then to all
    other streams as they were before that layer (two-stream: ViLBERT, Lu et al. 2019, https://arxiv.org/abs/1908.02265,
    section 2.2; the cross-modality encoder of LXMERT, Tan and Bansal 2019, https://arxiv.org/abs/1908.07490, section
    2.2):

        x_m = x_m + attention(x_m, x_m),  x_m = x_m + attention(x_m, [x_n for all n != m]),  x_m = x_m + mlp(x_m)

    with norms before each. A learned token replaces an absent stream, so that the others can attend to it; the fused
    tokens are those of the present streams. `attentions` are over all streams, zero outside a token's own stream;
    `cross_attentions` too, zero inside it.

    Raises:
        ValueError: fewer than two modalities; a config without `cross_attention`.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        check_modality_count(config, self.modalities)
        self.types = nn.ModuleDict({modality: LearnedTokens(1, config.hidden_size) for modality in self.modalities})
        self.missing = nn.ModuleDict({modality: LearnedTokens(1, config.hidden_size) for modality in self.modalities})
        self.planner = AttentionPlanner(config)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {modality: PlaitLayer(require_cross_attention(config), number) for modality in self.modalities}
            )
            for number in range(config.num_hidden_layers)
        )
        self.output_norm = build_norm(config) if config.output_norm else nn.Identity()

    def fuse(
        self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool
    ) -> FusionOutput:
        """Runs the layers of all streams, each with the others as context."""
        filled = [insert_missing_token(stream, self.missing[m](stream.mask.shape[0])) for m, stream in streams.items()]
        full = dict(zip(streams, add_modality_types(dict(zip(streams, filled, strict=True)), self.types), strict=True))
        plans = self.plan_attention(full, output_attentions)
        x = {modality: stream.tokens for modality, stream in full.items()}
        recorder = OutputRecorder(len(self.layers), output_hidden_states, output_attentions)
        for layers in self.layers:
            recorder.record_hidden_states(x)
            x = self.run_layer(layers, x, plans, recorder)
        tokens, _ = concatenate_streams(Stream(self.output_norm(x[m]), full[m].mask) for m in x)
        mask = torch.cat([pad_mask(streams[m].mask, x[m]) for m in x], dim=1)
        recorder.record_hidden_states({"all": tokens})
        recorded = (recorder.hidden_states, recorder.attentions, recorder.cross_attentions)
        return FusionOutput(tokens, mask, *recorded)

    def run_layer(
        self, layers: Any, x: dict[str, Tensor], plans: dict[str, LayerPlans], recorder: OutputRecorder
    ) -> dict[str, Tensor]:
        """Runs one layer of every stream, each with the inputs of the other streams as its context."""
        others = {m: [name for name in x if name != m] for m in x}
        contexts = {m: torch.cat([x[name] for name in others[m]], dim=1) for m in x}
        found = {m: layers[m](x[m], plans[m], contexts[m]) for m in x}
        if recorder.output_attentions:
            lengths = {m: tokens.shape[1] for m, tokens in x.items()}
            recorder.attention_weights.append(torch.cat([scatter_keys(found[m][1], lengths, [m]) for m in x], dim=2))
            recorder.cross_attention_weights.append(
                torch.cat([scatter_keys(found[m][2], lengths, others[m]) for m in x], dim=2)
            )
        return {m: tokens for m, (tokens, *_) in found.items()}

    def plan_attention(self, streams: dict[str, Stream], eager: bool) -> dict[str, LayerPlans]:
        """Plans the attention of each stream to itself and to the others."""
        found = {}
        for modality, (x, mask) in streams.items():
            context = concatenate_streams(stream for name, stream in streams.items() if name != modality)
            found[modality] = LayerPlans(
                self.planner.self_attention(x, mask, eager),
                self.planner.cross_attention(x, *context, eager),
            )
        return found


def pad_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Pads the mask with False to the length of x: the token that replaces an absent stream is no fused token."""
    return nn.functional.pad(mask, (0, x.shape[1] - mask.shape[1]))
