"""Audio towers that end in a transformer: audio clips to tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from ...configuration import PlaitAudioConfig, PlaitSpectrogramConfig, PlaitWaveformConfig
from ..core.layers import LearnedTokens, Sinusoids
from ..core.pooling import build_pooler, build_tower_output
from ..core.precision import cast_to_module
from ..core.transformer import PlaitTransformer
from ..outputs import LayerChoice, TowerOutput
from .patches import add_positions, to_height_width
from .waveform import AudioTokens, WaveformEmbeddings


class AudioTower(nn.Module):
    """The audio tower of Whisper's encoder, Audio Spectrogram Transformer, wav2vec2 and HuBERT: clips to tokens."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = AUDIO_EMBEDDINGS[type(config)](config)
        self.transformer = PlaitTransformer(config)
        self.pooler = build_pooler(config)
        self.item_dimensions = self.embeddings.item_dimensions

    def forward(
        self,
        input_features: Tensor | None = None,
        input_values: Tensor | None = None,
        clip_mask: Tensor | None = None,
        output_hidden_states: LayerChoice = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """Encodes audio clips.

        input_features: (clips, mel bins, frames); input_values: (clips, samples) or (clips, frames, mel bins). The
        tower's family reads one of the two. clip_mask: (clips, frames or samples), 1 inside a clip, 0 in its padding.

        Raises ValueError for the input that the family does not read, or a wrong shape.
        """
        clips = select_clips(self.config.reads, {"input_features": input_features, "input_values": input_values})
        x, mask = self.embeddings(clips, clip_mask)
        result = self.transformer(
            x, mask, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        return build_tower_output(
            result, x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask, self.pooler
        )

    def get_input_embeddings(self) -> nn.Module:
        """Returns the first layer that reads the audio."""
        return self.embeddings.entry

    def set_input_embeddings(self, value: Any) -> None:
        """Replaces the first layer that reads the audio."""
        self.embeddings.entry = value


def select_clips(name: str, given: dict[str, Tensor | None]) -> Tensor:
    """Returns the input called `name`; raises ValueError if it is absent, or another is given."""
    clips = given.pop(name)
    if clips is None or any(value is not None for value in given.values()):
        others = " and ".join(other for other, value in given.items() if value is not None)
        raise ValueError(
            f"this audio tower reads {name}, not {others or 'nothing'}: use the feature extractor of its checkpoint"
        )
    return clips


class AudioEmbeddings(nn.Module):
    """The stem of Whisper's encoder (Radford et al. 2022, https://arxiv.org/abs/2212.04356, section 2.2): frames of a
    log-mel spectrogram through two convolutions over time (kernel 3, the second with stride 2), plus positions."""

    item_dimensions = 2

    def __init__(self, config: PlaitAudioConfig) -> None:
        super().__init__()
        width, self.num_mel_bins, self.count = config.hidden_size, config.num_mel_bins, config.max_source_positions
        self.conv1 = nn.Conv1d(self.num_mel_bins, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        table = FRAME_POSITIONS[config.position_type]
        self.position_embedding = None if table is None else table(self.count, width)

    @property
    def entry(self) -> nn.Module:
        """The first convolution."""
        return self.conv1

    @entry.setter
    def entry(self, value: nn.Conv1d) -> None:
        self.conv1 = value

    def forward(self, input_features: Tensor, mask: Tensor | None = None) -> AudioTokens:
        """Returns one token for every two frames; input_features: (clips, mel bins, frames), mask: (clips, frames)."""
        self.check(input_features)
        x = cast_to_module(input_features, self.conv1)
        real = 1 if mask is None else mask[:, None].to(x.dtype)
        x = nn.functional.gelu(self.conv1(x * real)) * real
        x = nn.functional.gelu(self.conv2(x)).transpose(1, 2)
        if self.position_embedding is not None:
            x = x + self.position_embedding(torch.arange(x.shape[1], device=x.device))
        return AudioTokens(x, None if mask is None else mask[:, ::2].bool())

    def check(self, input_features: Tensor) -> None:
        """Raises ValueError for a wrong rank or number of mel bins, or a clip that is empty or too long."""
        if input_features.ndim != 3 or input_features.shape[1] != self.num_mel_bins:
            shape = tuple(input_features.shape)
            raise ValueError(f"audio clips have shape {shape}, not (clips, {self.num_mel_bins}, frames)")
        frames = input_features.shape[2]
        if frames == 0 or (self.position_embedding is not None and frames > 2 * self.count):
            raise ValueError(f"a clip has {frames} frames, but the audio tower reads 1 .. {2 * self.count}: cut it")


FRAME_POSITIONS: dict[str, type[Sinusoids] | type[nn.Embedding] | None] = {
    "sinusoidal": Sinusoids,
    "learned": nn.Embedding,
    "none": None,
}


class SpectrogramEmbeddings(nn.Module):
    """Embeds overlapping patches of a spectrogram, after class tokens, with learned positions (Gong et al. 2021,
    section 2.1)."""

    item_dimensions = 2

    def __init__(self, config: PlaitSpectrogramConfig) -> None:
        super().__init__()
        self.num_mel_bins, self.grid, self.patch_size = (
            config.num_mel_bins,
            config.grid,
            to_height_width(config.patch_size),
        )
        stride = (config.frequency_stride, config.time_stride)
        self.patch_embedding = nn.Conv2d(1, config.hidden_size, self.patch_size, stride=stride)
        self.class_tokens = nn.ModuleList(LearnedTokens(1, config.hidden_size) for _ in range(config.class_tokens))
        count = self.grid[0] * self.grid[1] + config.class_tokens
        self.position_embedding = nn.Embedding(count, config.hidden_size)

    @property
    def entry(self) -> nn.Module:
        """The convolution that embeds the patches."""
        return self.patch_embedding

    @entry.setter
    def entry(self, value: nn.Conv2d) -> None:
        self.patch_embedding = value

    def forward(self, input_values: Tensor, mask: Tensor | None = None) -> AudioTokens:
        """Returns tokens (clips, tokens, width) of input_values (clips, frames, mel bins)."""
        self.check(input_values, mask)
        spectrogram = cast_to_module(input_values, self.patch_embedding).transpose(1, 2)[:, None]
        patches = self.patch_embedding(spectrogram)
        grid = (patches.shape[-2], patches.shape[-1])
        first = [token(patches.shape[0]) for token in self.class_tokens]
        x = torch.cat((*first, patches.flatten(2).transpose(1, 2)), dim=1)
        return AudioTokens(add_positions(x, self.position_embedding, self.grid, grid), None)

    def check(self, input_values: Tensor, mask: Tensor | None) -> None:
        """Raises ValueError for a wrong rank or number of mel bins, a clip shorter than a patch, or padded clips."""
        if input_values.ndim != 3 or input_values.shape[2] != self.num_mel_bins:
            shape = tuple(input_values.shape)
            raise ValueError(f"audio clips have shape {shape}, not (clips, frames, {self.num_mel_bins})")
        if input_values.shape[1] < self.patch_size[1]:
            raise ValueError(f"a clip of {input_values.shape[1]} frames is shorter than a patch: {self.patch_size[1]}")
        if mask is not None and not bool(mask.all()):
            raise ValueError(
                "input_values_mask marks padded frames, but a tower of spectrogram patches reads clips of one length: "
                "pad the audio with silence before its features are computed"
            )


AUDIO_EMBEDDINGS: dict[type, Any] = {
    PlaitAudioConfig: AudioEmbeddings,
    PlaitSpectrogramConfig: SpectrogramEmbeddings,
    PlaitWaveformConfig: WaveformEmbeddings,
}
