"""The table of native towers by the class of their config, and the functions that build a tower or a decoder."""

from torch import nn
from transformers import PreTrainedConfig

from ...configuration import (
    PlaitAudioConfig,
    PlaitCNNConfig,
    PlaitDecoderConfig,
    PlaitRNNConfig,
    PlaitSpectrogramConfig,
    PlaitTextConfig,
    PlaitTubeletConfig,
    PlaitVideoConfig,
    PlaitVisionConfig,
    PlaitWaveformConfig,
)
from .audio import AudioTower
from .cnn import ConvolutionalTower
from .image import ImageTower
from .recurrent import RecurrentTower
from .text import TextTower
from .video import TubeletTower, VideoTower
from .wrapped import WrappedTower
from .wrapped_decoder import WrappedDecoder

TOWERS: dict[type[PreTrainedConfig], type[nn.Module]] = {
    PlaitTextConfig: TextTower,
    PlaitDecoderConfig: TextTower,
    PlaitVisionConfig: ImageTower,
    PlaitCNNConfig: ConvolutionalTower,
    PlaitAudioConfig: AudioTower,
    PlaitSpectrogramConfig: AudioTower,
    PlaitWaveformConfig: AudioTower,
    PlaitRNNConfig: RecurrentTower,
    PlaitVideoConfig: VideoTower,
    PlaitTubeletConfig: TubeletTower,
}


def build_tower(config: PreTrainedConfig, modality: str) -> nn.Module:
    """Builds the native tower of a plait config, or a `WrappedTower` of any other transformers config."""
    if type(config) in TOWERS:
        return TOWERS[type(config)](config)
    return WrappedTower(config, modality)


def build_decoder(config: PreTrainedConfig) -> nn.Module:
    """Builds the native decoder of a plait config, or a `WrappedDecoder` of any other causal transformers config."""
    return TOWERS[type(config)](config) if type(config) in TOWERS else WrappedDecoder(config)
