"""What the strategies share in which one modality asks and the others answer."""

from torch import nn

from ...configuration import PlaitFusionConfig
from ..core.layers import LearnedTokens
from .base import Fusion, Stream, add_modality_types, check_modality_count, concatenate_streams, insert_missing_token


class QueryFusion(Fusion):
    """Base: the stream of `config.query` (text where there is text, else the first modality) asks; the others, told
    apart by a learned type, are the context. A learned token stands in for the query stream of a row that lacks it,
    another for an absent context. The fused tokens are those of the query stream.

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
        """The query stream and the context, each with at least one token in every row."""
        batch = len(streams[self.query].mask)
        others = {modality: stream for modality, stream in streams.items() if modality != self.query}
        query = insert_missing_token(streams[self.query], self.missing_query(batch))
        return query, insert_missing_token(
            concatenate_streams(add_modality_types(others, self.types)), self.missing_context(batch)
        )
