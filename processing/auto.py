"""The Auto class that loads a plait's processor."""

from transformers import AutoProcessor

from ..configuration import PlaitConfig
from .processor import PlaitProcessor


def register() -> None:
    """Make `AutoProcessor` give a `PlaitProcessor` for a plait's folder."""
    AutoProcessor.register(PlaitConfig, PlaitProcessor, exist_ok=True)
