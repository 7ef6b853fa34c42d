"""Fusion: several token streams in, one `Fused` out. A strategy is one class, one file and one row of `FUSIONS`."""

from difflib import get_close_matches

from ...configuration import PlaitFusionConfig
from .base import Fused, Fusion, Stream
from .concatenate import ConcatenationFusion
from .cross_attention import CrossAttentionFusion
from .early import EarlyFusion
from .late import LateFusion

FUSIONS: dict[str, type[Fusion]] = {
    "early": EarlyFusion,
    "late": LateFusion,
    "concatenate": ConcatenationFusion,
    "cross_attention": CrossAttentionFusion,
}


def fusion_of(config: PlaitFusionConfig, modalities: tuple[str, ...]) -> Fusion:
    """The fusion that `config.strategy` names, for these modalities (in any order).

    Raises:
        ValueError: no such strategy, with the list and the nearest name.
    """
    if config.strategy not in FUSIONS:
        near = get_close_matches(config.strategy, FUSIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no fusion strategy {config.strategy!r}, only {', '.join(FUSIONS)}{hint}")
    return FUSIONS[config.strategy](config, modalities)


__all__ = ["FUSIONS", "Fused", "Fusion", "Stream", "fusion_of"]
