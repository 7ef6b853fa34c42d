"""From texts and pictures to tensors."""

from transformers import AutoProcessor

from ..configuration import PlaitConfig
from .mel import PlaitMelFeatureExtractor
from .processor import PlaitProcessor


def register() -> None:
    """Make `AutoProcessor` give a `PlaitProcessor` for a plait's folder."""
    AutoProcessor.register(PlaitConfig, PlaitProcessor, exist_ok=True)


__all__ = ["PlaitMelFeatureExtractor", "PlaitProcessor", "register"]
