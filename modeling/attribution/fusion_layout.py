"""Where the tokens of each modality stand in a fusion, and which of them each attention joins."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..fusion.base import Fusion
from ..fusion.strategies.bottleneck import BottleneckFusion
from ..fusion.strategies.co_attention import CoAttentionFusion
from ..fusion.strategies.cross_attention import QueryFusion


class FusionLayout(NamedTuple):
    """The tokens of a fusion in one sequence: those of the modalities in their order, then learned ones (shared tokens
    of a bottleneck, the one that replaces an absent context).

    places: by modality, (tokens,); learned: (tokens,); query: the modality that attends to the others, "" if all do.
    """

    places: dict[str, Tensor]
    learned: Tensor
    query: str = ""

    @property
    def count(self) -> int:
        """The number of all tokens."""
        return sum(map(len, self.places.values())) + len(self.learned)

    @property
    def fused(self) -> Tensor:
        """The fused tokens: those of the query, or of all modalities."""
        return self.places[self.query] if self.query else torch.cat(list(self.places.values()))

    def find_rows(self, path: str) -> Tensor:
        """Returns the tokens that attend in the attention of this path."""
        own = [name for name in path.split(".") if name in self.places]
        if own:  # layers of a bottleneck hold the shared tokens behind each stream
            return torch.cat((self.places[own[0]], self.learned))
        return self.fused

    def find_columns(self, path: str) -> Tensor:
        """Returns the tokens that they attend to."""
        if not path.endswith("cross_attn"):
            return self.find_rows(path)
        own = next((name for name in path.split(".") if name in self.places), self.query)
        others = [places for name, places in self.places.items() if name != own]
        return torch.cat((*others, self.learned))


def find_layout(fusion: Fusion, lengths: Mapping[str, int], device: torch.device) -> FusionLayout:
    """Finds where tokens stand in a fusion of streams of these lengths, by modality.

    A learned token takes the place of an absent stream where the strategy needs one.
    """
    sizes = {name: lengths.get(name, 0) for name in fusion.modalities}
    query, learned = "", 0
    if isinstance(fusion, CoAttentionFusion):
        sizes = {name: max(size, 1) for name, size in sizes.items()}
    elif isinstance(fusion, QueryFusion):
        query = fusion.query
        learned = 0 if sum(size for name, size in sizes.items() if name != query) else 1
        sizes[query] = max(sizes[query], 1)
    elif isinstance(fusion, BottleneckFusion):
        learned = fusion.config.num_bottlenecks
    parts = torch.arange(sum(sizes.values()) + learned, device=device).split([*sizes.values(), learned])
    return FusionLayout(dict(zip(sizes, parts[:-1], strict=True)), parts[-1], query)
