"""Cross-attention fusion: one modality asks, the others answer."""

from torch import nn

from ...configuration import PlaitFusionConfig
from ..layers import LearnedTokens
from ..outputs import LayerChoice
from ..transformer import PlaitTransformer
from .base import Fused, Fusion, Stream, concatenate, positions_of, stand_in, typed


class CrossAttentionFusion(Fusion):
    """Layers of self-attention, cross-attention and MLP over the stream of `config.query` (text where there is text,
    else the first modality); the other streams, told apart by a learned type, are the context (the multimodal encoder
    of ALBEF, Li et al. 2021, https://arxiv.org/abs/2107.07651; the crossmodal attention of MulT, Tsai et al. 2019,
    https://arxiv.org/abs/1906.00295, section 3.1):

        y = softmax(Q_query K_context^T / sqrt(d_k)) V_context

    A learned token stands in for the query stream of a row that lacks it, another for an absent context. The fused
    tokens are those of the query stream.

    Raises:
        ValueError: fewer than two modalities; a query that is not among them; a config without `cross_attention`.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.query = self.query_of(config)
        others = [modality for modality in self.modalities if modality != self.query]
        self.types = nn.ModuleDict({modality: LearnedTokens(1, config.hidden_size) for modality in others})
        self.missing_query = LearnedTokens(1, config.hidden_size)
        self.missing_context = LearnedTokens(1, config.hidden_size)
        self.transformer = PlaitTransformer(config)

    def query_of(self, config: PlaitFusionConfig) -> str:
        if len(self.modalities) < 2:
            raise ValueError(f"cross_attention needs two modalities or more, not {', '.join(self.modalities)} alone")
        if not config.cross_attention:
            raise ValueError("the strategy cross_attention needs a config with cross_attention=True")
        query = config.query or self.modalities[0]
        if query not in self.modalities:
            raise ValueError(f"the query {query!r} is not among the modalities {', '.join(self.modalities)}")
        return query

    def fuse(self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool) -> Fused:
        batch = len(streams[self.query].mask)
        others = {modality: stream for modality, stream in streams.items() if modality != self.query}
        x, mask = stand_in(streams[self.query], self.missing_query(batch))
        context, context_mask = stand_in(concatenate(typed(others, self.types)), self.missing_context(batch))
        joint = self.transformer(
            x,
            mask,
            positions_of(mask),
            context=context,
            context_mask=context_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        recorded = (joint.hidden_states, joint.attentions, joint.cross_attentions)
        return Fused(joint.last_hidden_state, mask, None, None, *recorded)
