"""The base of all fusions: streams in, fused tokens out, and the handling of absent modalities."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...configuration import MODALITIES, PlaitFusionConfig
from ..core.rows import check_present_rows
from ..outputs import LayerChoice


class Stream(NamedTuple):
    """The tokens of one modality.

    tokens: (batch, length, width); mask: (batch, length) bool, True for real tokens. A row without the modality has an
    all-False mask, and its tokens are never read.
    """

    tokens: Tensor
    mask: Tensor

    @property
    def present(self) -> Tensor:
        """(batch,) bool, True for rows with at least one real token."""
        return self.mask.any(dim=1)

    def clean(self, rows: Tensor | None = None) -> "Stream":
        """Returns the stream with zeros in place of absent tokens; rows outside `rows`, (batch,) bool, lose all."""
        mask = self.mask if rows is None else self.mask & rows[:, None]
        # where, not a product: 0 * nan is nan, in the gradient too
        return Stream(torch.where(mask[..., None], self.tokens, 0.0), mask)


class FusionOutput(NamedTuple):
    """The output of a fusion. tokens: (batch, length, width) and mask: (batch, length), which a head or decoder reads;
    hidden_states, attentions, cross_attentions: one tensor for each layer of the fusion, if requested and if the
    strategy has layers."""

    tokens: Tensor
    mask: Tensor
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class Fusion(nn.Module):
    """Base of the strategies: a subclass implements `fuse`, which gets every modality of the fusion, in the order text,
    image, audio, video, with zeros in place of absent tokens. A modality that the whole batch lacks is a stream of
    length 0: its parameters still get a gradient (of zeros), as distributed training waits for all of them.

    `keeps_tokens`: whether the fused tokens are the tokens of the streams, in their order.
    """

    keeps_tokens = True

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(modality for modality in MODALITIES if modality in modalities)
        self.modality_dropout = ModalityDropout(config.modality_dropout)

    def forward(
        self, streams: Mapping[str, Stream], output_hidden_states: LayerChoice = False, output_attentions: bool = False
    ) -> FusionOutput:
        """Fuses streams given by modality, in any order, each (batch, length, width) with its own length.

        Raises:
            ValueError: a row without any modality, or a stream of a modality that this fusion was not built for.
        """
        complete = self.complete(streams)
        present = torch.stack([stream.present for stream in complete.values()], dim=1)
        check_present_rows(present.any(dim=1), self.modalities)
        kept = self.modality_dropout(present).unbind(dim=1)
        clean = {modality: complete[modality].clean(rows) for modality, rows in zip(complete, kept, strict=True)}
        return self.fuse(clean, output_hidden_states, output_attentions)

    def fuse(
        self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool
    ) -> FusionOutput:
        """Fuses one clean stream for each modality of the fusion."""
        raise NotImplementedError

    def complete(self, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """Returns the streams of all modalities in their order, an empty one for each missing modality.

        Raises ValueError for an unknown modality, or no streams.
        """
        others = [modality for modality in streams if modality not in self.modalities]
        if others or not streams:
            raise ValueError(f"this fusion reads {', '.join(self.modalities)}, not {', '.join(others) or 'nothing'}")
        batch, _, width = (tokens := next(iter(streams.values())).tokens).shape
        empty = Stream(tokens.new_zeros(batch, 0, width), tokens.new_zeros(batch, 0, dtype=torch.bool))
        return {modality: streams.get(modality, empty) for modality in self.modalities}


class ModalityDropout(nn.Module):
    """Drops each present modality of a row with probability `p` in training, but never its last one (ModDrop, Neverova
    et al. 2015, https://arxiv.org/abs/1501.00102)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, present: Tensor) -> Tensor:
        """Returns the modalities that are kept; present: (batch, modalities) bool, like the result."""
        if not self.training or not self.p:
            return present
        draw = torch.rand(present.shape, device=present.device).where(present, -1.0)
        # the highest draw of a row survives: a random modality, if all of them would be dropped
        return present & ((draw >= self.p) | (draw == draw.amax(dim=1, keepdim=True)))


def check_modality_count(config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
    """Raises ValueError for fewer than two modalities."""
    if len(modalities) < 2:
        raise ValueError(
            f"the fusion strategy {config.strategy} needs two modalities or more, not {', '.join(modalities)} alone"
        )


def require_cross_attention(config: PlaitFusionConfig) -> PlaitFusionConfig:
    """Returns the config; raises ValueError if its layers have no cross-attention."""
    if not config.cross_attention:
        raise ValueError(f"the strategy {config.strategy} needs a config with cross_attention=True")
    return config


def concatenate_streams(streams: Iterable[Stream]) -> Stream:
    """Concatenates the tokens of all streams into one sequence."""
    tokens, masks = zip(*streams, strict=True)
    return Stream(torch.cat(tokens, dim=1), torch.cat(masks, dim=1))


def add_modality_types(streams: Mapping[str, Stream], types: nn.ModuleDict) -> list[Stream]:
    """Adds the learned type of its modality to each stream: z = [text + t_text; image + t_image; ...]."""
    return [Stream(stream.tokens + types[modality](1), stream.mask) for modality, stream in streams.items()]


def insert_missing_token(stream: Stream, missing: Tensor) -> Stream:
    """Returns the stream with the `missing` token, (batch, 1, width), as the only token of every row without tokens."""
    lacking = max(0, 1 - stream.mask.shape[1])
    tokens = nn.functional.pad(stream.tokens, (0, 0, 0, lacking))
    mask = nn.functional.pad(stream.mask, (0, lacking))
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    place = first & ~stream.present[:, None]
    return Stream(torch.where(place[..., None], missing, tokens), mask | place)


def compute_token_positions(mask: Tensor) -> Tensor:
    """Returns positions counted over real tokens, (batch, length): padding inside the sequence does not shift them."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
