"""Processing: texts, images, audio and video to tensors.

May import: configuration.
"""

from .auto import register
from .mel import PlaitMelFeatureExtractor
from .processor import PlaitProcessor

__all__ = ["PlaitMelFeatureExtractor", "PlaitProcessor", "register"]
