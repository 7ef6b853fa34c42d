"""Cross-attention fusion: one modality gives the queries, the others the context."""

from torch import nn

from ....configuration import PlaitFusionConfig
from ...core.layers import LearnedTokens
from ...core.transformer import PlaitTransformer
from ...outputs import LayerChoice
from ..base import (
    Fusion,
    FusionOutput,
    Stream,
    add_modality_types,
    check_modality_count,
    compute_token_positions,
    concatenate_streams,
    insert_missing_token,
    require_cross_attention,
)


class QueryFusion(Fusion):
    """Base of the strategies in which one stream attends to the others. The query stream is that of `config.query`
    (None: the first modality, text if present); the others, with a learned type for each, are the context. A learned
    token replaces an absent query stream, another an absent context. The fused tokens are those of the query stream.

    Raises:
        ValueError: fewer than two modalities, or a query that is not among them.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        check_modality_count(config, self.modalities)
        self.query = config.query or self.modalities[0]
        if self.query not in self.modalities:
            raise ValueError(f"the query {self.query!r} is not among the modalities {', '.join(self.modalities)}")
        others = [modality for modality in self.modalities if modality != self.query]
        self.types = nn.ModuleDict({modality: LearnedTokens(1, config.hidden_size) for modality in others})
        self.missing_query = LearnedTokens(1, config.hidden_size)
        self.missing_context = LearnedTokens(1, config.hidden_size)

    def split_query(self, streams: dict[str, Stream]) -> tuple[Stream, Stream]:
        """Returns the query stream and the context, each with at least one token in every row."""
        batch = streams[self.query].mask.shape[0]
        others = {modality: stream for modality, stream in streams.items() if modality != self.query}
        query = insert_missing_token(streams[self.query], self.missing_query(batch))
        return query, insert_missing_token(
            concatenate_streams(add_modality_types(others, self.types)), self.missing_context(batch)
        )


class CrossAttentionFusion(QueryFusion):
    """Layers of self-attention, cross-attention and MLP over the query stream; the other streams are the context (the
    multimodal encoder of ALBEF, Li et al. 2021, https://arxiv.org/abs/2107.07651; the crossmodal attention of
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
        """Runs the transformer on the query stream, with the others as context."""
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
        return FusionOutput(joint.last_hidden_state, mask, *recorded)
