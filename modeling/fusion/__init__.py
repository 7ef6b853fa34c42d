"""Fusion: several token streams to one `FusionOutput`. A strategy is one class, one file and one row of `FUSIONS`.

May import: modeling/losses and below, never modeling/towers.
"""

from .base import Fusion, FusionOutput, Stream
from .registry import FUSIONS, build_fusion

__all__ = ["FUSIONS", "Fusion", "FusionOutput", "Stream", "build_fusion"]
