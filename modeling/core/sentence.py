"""The sentence pooler: how a sentence encoder (sentence-transformers, https://sbert.net) turns tokens into a vector."""

from collections.abc import Mapping
from itertools import starmap
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from ...configuration.sentence import compute_sentence_widths, pools_sentences
from .pooling import POOLINGS


class SentenceDense(nn.Module):
    """A dense layer with an activation."""

    def __init__(self, width: int, size: int, bias: bool = True, act: str | None = None) -> None:
        super().__init__()
        self.dense = nn.Linear(width, size, bias=bias)
        self.act = nn.Identity() if act is None else ACT2FN[act]

    def forward(self, x: Tensor) -> Tensor:
        """Maps x: (batch, width) to (batch, size)."""
        return self.act(self.dense(x))


class UnitLength(nn.Module):
    """Divides each vector by its length."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps x: (batch, width) to vectors of unit length."""
        return F.normalize(x, dim=-1)


class VectorScale(nn.Module):
    """Multiplies each vector by the square root of its width: a vector of unit length then has components of about 1,
    which a head needs to learn at the usual learning rates."""

    def forward(self, x: Tensor) -> Tensor:
        """Scales x: (batch, width)."""
        return x * x.shape[-1] ** 0.5


def build_sentence_layer(width: int, entry: Mapping[str, Any]) -> nn.Module:
    """Builds one layer behind the pooling from its entry in `sentence_layers`.

    Raises ValueError for an unknown type.
    """
    fields = {name: value for name, value in entry.items() if name != "type"}
    builders = {
        "dense": lambda: SentenceDense(width, **fields),
        "normalize": lambda: UnitLength(),
        "layer_norm": lambda: nn.LayerNorm(width),
        "dropout": lambda: nn.Dropout(**fields),
    }
    if entry.get("type") not in builders:
        raise ValueError(f"sentence_layers has the entry {dict(entry)}: its type is one of {', '.join(builders)}")
    return builders[entry["type"]]()


class SentencePooler(nn.Module):
    """Pools tokens in one or more ways, concatenated, and applies the layers that follow: dense layers, norms, unit
    length."""

    def __init__(self, config: PreTrainedConfig, width: int) -> None:
        super().__init__()
        self.modes = [POOLINGS[mode] for mode in config.sentence_pooling]
        widths, entries = compute_sentence_widths(config, width), config.sentence_layers or []
        self.layers = nn.ModuleList(starmap(build_sentence_layer, zip(widths[:-1], entries, strict=True)))

    def forward(self, x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Maps x: (batch, length, width), mask: (batch, length) to (batch, sentence width)."""
        vector = torch.cat([pick(x, mask) for pick in self.modes], dim=-1)
        for layer in self.layers:
            vector = layer(vector)
        return vector


def build_sentence_pooler(config: PreTrainedConfig, width: int) -> SentencePooler | None:
    """Builds the sentence pooler of a tower with tokens of this width; None if it is no sentence encoder."""
    return SentencePooler(config, width) if pools_sentences(config) else None
