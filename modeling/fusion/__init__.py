"""Fusion: several token streams in, one `Fused` out. A strategy is one class, one file and one row of `FUSIONS`.

May import: modeling/losses and below, never modeling/towers.
"""

from .base import Fused, Fusion, Stream
from .registry import FUSIONS, fusion_of

__all__ = ["FUSIONS", "Fused", "Fusion", "Stream", "fusion_of"]
