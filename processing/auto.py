"""Registers PlaitProcessor with transformers' AutoProcessor."""

from transformers import AutoProcessor

from ..configuration import PlaitConfig
from .processor import PlaitProcessor


def register() -> None:
    """Makes `AutoProcessor.from_pretrained` return a `PlaitProcessor` for a folder saved by plait."""
    AutoProcessor.register(PlaitConfig, PlaitProcessor, exist_ok=True)
