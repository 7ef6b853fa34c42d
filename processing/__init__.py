"""Processing: turns texts, images, audio and videos into tensors.

May import: configuration.
"""

from .auto import register
from .mel import PlaitMelFeatureExtractor
from .processor import PlaitProcessor

__all__ = ["PlaitMelFeatureExtractor", "PlaitProcessor", "register"]
