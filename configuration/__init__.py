"""The configs of models, towers, fusions and decoders: plain data that imports no torch. Each is imported on first
use, as the files here that need no transformers are read by the command line."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .audio import PlaitRNNConfig, PlaitSpectrogramConfig, PlaitWaveformConfig
    from .autoencoder import ImageShape, PlaitAutoencoderConfig
    from .base import PlaitBaseConfig
    from .cnn import PlaitCNNConfig
    from .decoder import PlaitDecoderConfig
    from .denoiser import PlaitDenoiserConfig
    from .fusion import PlaitFusionConfig
    from .modalities import CONFIG_FIELDS, MODALITIES
    from .plait import INLINE, OWN_CONFIGS, SPECIAL_TOKENS, PlaitConfig
    from .retrieval import DOCUMENT, NEGATIVE, PlaitRetrievalConfig
    from .tower import PlaitAudioConfig, PlaitTextConfig, PlaitTowerConfig, PlaitVisionConfig
    from .transformer import PlaitTransformerConfig
    from .video import PlaitTubeletConfig, PlaitVideoConfig
    from .width import width_of

LAZY = {
    "CONFIG_FIELDS": ".modalities",
    "DOCUMENT": ".retrieval",
    "INLINE": ".plait",
    "MODALITIES": ".modalities",
    "NEGATIVE": ".retrieval",
    "OWN_CONFIGS": ".plait",
    "SPECIAL_TOKENS": ".plait",
    "ImageShape": ".autoencoder",
    "PlaitAudioConfig": ".tower",
    "PlaitAutoencoderConfig": ".autoencoder",
    "PlaitBaseConfig": ".base",
    "PlaitCNNConfig": ".cnn",
    "PlaitConfig": ".plait",
    "PlaitDecoderConfig": ".decoder",
    "PlaitDenoiserConfig": ".denoiser",
    "PlaitFusionConfig": ".fusion",
    "PlaitRNNConfig": ".audio",
    "PlaitRetrievalConfig": ".retrieval",
    "PlaitSpectrogramConfig": ".audio",
    "PlaitTextConfig": ".tower",
    "PlaitTowerConfig": ".tower",
    "PlaitTransformerConfig": ".transformer",
    "PlaitTubeletConfig": ".video",
    "PlaitVideoConfig": ".video",
    "PlaitVisionConfig": ".tower",
    "PlaitWaveformConfig": ".audio",
    "width_of": ".width",
}

__all__ = [
    "CONFIG_FIELDS",
    "DOCUMENT",
    "INLINE",
    "MODALITIES",
    "NEGATIVE",
    "OWN_CONFIGS",
    "SPECIAL_TOKENS",
    "ImageShape",
    "PlaitAudioConfig",
    "PlaitAutoencoderConfig",
    "PlaitBaseConfig",
    "PlaitCNNConfig",
    "PlaitConfig",
    "PlaitDecoderConfig",
    "PlaitDenoiserConfig",
    "PlaitFusionConfig",
    "PlaitRNNConfig",
    "PlaitRetrievalConfig",
    "PlaitSpectrogramConfig",
    "PlaitTextConfig",
    "PlaitTowerConfig",
    "PlaitTransformerConfig",
    "PlaitTubeletConfig",
    "PlaitVideoConfig",
    "PlaitVisionConfig",
    "PlaitWaveformConfig",
    "width_of",
]


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
