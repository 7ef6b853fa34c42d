"""The configs of models, towers, fusions and decoders: plain data that imports no torch."""

from transformers import AutoConfig

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

for _config in (PlaitConfig, *OWN_CONFIGS.values()):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)

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
