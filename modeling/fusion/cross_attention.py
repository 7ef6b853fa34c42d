"""Cross-attention fusion: one modality asks, the others answer."""

from ...configuration import PlaitFusionConfig
from ..core.transformer import PlaitTransformer
from ..outputs import LayerChoice
from .base import FusionOutput, Stream, compute_token_positions, require_cross_attention
from .query import QueryFusion


class CrossAttentionFusion(QueryFusion):
    """Layers of self-attention, cross-attention and MLP over the stream that asks; the other streams are the context
    (the multimodal encoder of ALBEF, Li et al. 2021, https://arxiv.org/abs/2107.07651; the crossmodal attention of
    MulT, Tsai et al. 2019, https://arxiv.org/abs/1906.00295, section 3.1):

        y = softmax(Q_query K_context^T / sqrt(d_k)) V_context

    Raises:
        ValueError: as `QueryFusion`; a config without `cross_attention`.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.transformer = PlaitTransformer(require_cross_attention(config))

    def fuse(
        self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool
    ) -> FusionOutput:
        (x, mask), (context, context_mask) = self.split_query(streams)
        joint = self.transformer(
            x,
            mask,
            compute_token_positions(mask),
            context=context,
            context_mask=context_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        recorded = (joint.hidden_states, joint.attentions, joint.cross_attentions)
        return FusionOutput(joint.last_hidden_state, mask, None, None, *recorded)
