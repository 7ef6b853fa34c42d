"""Video towers: videos (clips of frames) to tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration import PlaitCNNConfig, PlaitTubeletConfig, PlaitVideoConfig, PlaitVisionConfig, width_of
from ..core.layers import LearnedTokens, Sinusoids
from ..core.pooling import build_pooler, build_tower_output, first_token, mean_token
from ..core.precision import cast_to_module
from ..core.transformer import PlaitTransformer, TransformerOutput
from ..outputs import LayerChoice, TowerOutput
from .cnn import ConvolutionalTower
from .image import ImageTower
from .items import check_videos
from .patches import to_height_width
from .wrapped import WrappedTower


def build_frame_tower(config: Any) -> nn.Module:
    """Builds the image tower that encodes each frame."""
    own = {PlaitVisionConfig: ImageTower, PlaitCNNConfig: ConvolutionalTower}
    return own[type(config)](config) if type(config) in own else WrappedTower(config, "image")


def keep_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Returns all tokens of each frame."""
    return x


def as_one_token(pooling: Any) -> Any:
    """Wraps a pooling so that it returns one token for each frame: (frames, tokens, width) to (frames, 1, width)."""
    return lambda x, mask: pooling(x, mask)[:, None]


FRAME_POOLINGS = {"none": keep_tokens, "mean": as_one_token(mean_token), "first": as_one_token(first_token)}


class VideoTower(nn.Module):
    """The video tower that encodes each frame by an image tower, then joins the frames over time (`config.temporal`).
    Only present frames enter the image tower."""

    frames: Any

    def __init__(self, config: PlaitVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = build_frame_tower(config.image_config)
        self.pool = FRAME_POOLINGS[config.frame_pooling]
        self.temporal = TEMPORAL_MODULES[config.temporal](config)
        self.pooler = build_pooler(config)

    def forward(
        self,
        pixel_values_videos: Tensor,
        frame_mask: Tensor | None = None,
        output_hidden_states: LayerChoice = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """Encodes videos; pixel_values_videos: (clips, frames, channels, height, width); frame_mask: (clips, frames), 0
        after the last frame of a clip. Raises ValueError for a wrong rank, or more frames than positions."""
        check_videos(pixel_values_videos)
        present = torch.ones(pixel_values_videos.shape[:2], dtype=torch.bool, device=pixel_values_videos.device)
        present = present if frame_mask is None else frame_mask.bool()
        frames = pixel_values_videos.flatten(0, 1) if frame_mask is None else pixel_values_videos[present]
        output = self.frames(pixel_values=frames)
        x = self.pool(output.last_hidden_state, output.mask.bool())
        if frame_mask is not None:
            x = x.new_zeros(present.numel(), *x.shape[1:]).index_copy(0, present.flatten().nonzero()[:, 0], x)
        x = x.unflatten(0, tuple(present.shape))
        result, mask = self.temporal(x, present, output_hidden_states, output_attentions)
        return build_tower_output(result, mask, self.pooler)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the input embeddings of the image tower."""
        return self.frames.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the input embeddings of the image tower."""
        self.frames.set_input_embeddings(value)


class TemporalMean(nn.Module):
    """Averages the frames of a clip, token by token."""

    def __init__(self, config: PlaitVideoConfig) -> None:
        super().__init__()

    def forward(
        self, x: Tensor, present: Tensor, output_hidden_states: LayerChoice, output_attentions: bool
    ) -> tuple[TransformerOutput, Tensor]:
        """Returns tokens (clips, tokens, width) and mask; x: (clips, frames, tokens, width), present: (clips,
        frames)."""
        weight = present[..., None, None].to(x.dtype)
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1)
        return TransformerOutput(mean), mean.new_ones(mean.shape[:2], dtype=torch.bool)


class TemporalTransformer(nn.Module):
    """Adds a learned position to each frame, and runs a transformer over all tokens of a clip."""

    def __init__(self, config: PlaitVideoConfig) -> None:
        super().__init__()
        width = width_of(config.image_config, "image")
        self.num_frames = config.num_frames
        self.position_embedding = nn.Embedding(config.num_frames, width)
        self.transformer = PlaitTransformer(config, input_size=width)

    def forward(
        self, x: Tensor, present: Tensor, output_hidden_states: LayerChoice, output_attentions: bool
    ) -> tuple[TransformerOutput, Tensor]:
        """Returns (clips, frames * tokens, width) and their mask; x: (clips, frames, tokens, width), present: (clips,
        frames).

        Raises ValueError for more frames than there are positions.
        """
        frames, count = x.shape[1:3]
        if frames > self.num_frames:
            raise ValueError(
                f"a video has {frames} frames, but the tower places {self.num_frames}: sample fewer (num_frames)"
            )
        x = x + self.position_embedding(torch.arange(frames, device=x.device))[None, :, None]
        mask = present.repeat_interleave(count, dim=1)
        result = self.transformer(
            x.flatten(1, 2), mask, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        return result, mask


TEMPORAL_MODULES = {"mean": TemporalMean, "transformer": TemporalTransformer}


class TubeletTower(nn.Module):
    """The video tower of VideoMAE's encoder and ViViT: tubelets (patches over several frames) to tokens."""

    def __init__(self, config: PlaitTubeletConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TubeletEmbeddings(config)
        self.transformer = PlaitTransformer(config)
        self.pooler = build_pooler(config)

    def forward(
        self,
        pixel_values_videos: Tensor,
        frame_mask: Tensor | None = None,
        output_hidden_states: LayerChoice = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """Encodes videos; pixel_values_videos: (clips, num_frames, channels, height, width), with the config's sizes.

        Raises ValueError for other sizes, or a clip with absent frames (`frame_mask`).
        """
        if frame_mask is not None and not bool(frame_mask.all()):
            raise ValueError(f"this tower reads {self.config.num_frames} frames of every video: sample that number")
        x = self.embeddings(pixel_values_videos)
        result = self.transformer(x, output_hidden_states=output_hidden_states, output_attentions=output_attentions)
        return build_tower_output(result, x.new_ones(x.shape[:2], dtype=torch.bool), self.pooler)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the convolution that embeds the tubelets."""
        return self.embeddings.patch_embedding

    def set_input_embeddings(self, value: Any) -> None:
        """Replaces the convolution that embeds the tubelets."""
        self.embeddings.patch_embedding = value


class TubeletEmbeddings(nn.Module):
    """Embeds tubelets by one convolution, after class tokens, with positions (Arnab et al. 2021, section 3.2)."""

    def __init__(self, config: PlaitTubeletConfig) -> None:
        super().__init__()
        self.size = (config.num_frames, config.num_channels, *to_height_width(config.image_size))
        kernel = (config.tubelet_size, *to_height_width(config.patch_size))
        self.patch_embedding = nn.Conv3d(config.num_channels, config.hidden_size, kernel, stride=kernel)
        self.class_tokens = nn.ModuleList(LearnedTokens(1, config.hidden_size) for _ in range(config.class_tokens))
        frames, down, across = config.grid
        count = frames * down * across + config.class_tokens
        self.position_embedding = TUBELET_POSITIONS[config.position_type](count, config.hidden_size)

    def forward(self, pixel_values_videos: Tensor) -> Tensor:
        """Returns (clips, tokens, width) of pixel_values_videos (clips, frames, channels, height, width)."""
        check_videos(pixel_values_videos)
        if pixel_values_videos.shape[1:] != self.size:
            found = tuple(pixel_values_videos.shape[1:])
            raise ValueError(f"a video is {found} (frames, channels, height, width), but the tower reads {self.size}")
        pixels = cast_to_module(pixel_values_videos, self.patch_embedding).transpose(1, 2)
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat((*(token(patches.shape[0]) for token in self.class_tokens), patches), dim=1)
        return x + self.position_embedding(torch.arange(x.shape[1], device=x.device)).to(x.dtype)


class InterleavedSinusoids(Sinusoids):
    """Sinusoidal positions with sines and cosines in alternating channels (VideoMAE). They are computed at construction
    and not saved: the checkpoints do not have them."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width)
        self.weight = nn.Buffer(compute_interleaved_sinusoids(count, width), persistent=False)

    def init_weights(self, std: float) -> None:
        """Computes the table again, for a module that was built on the meta device."""
        init.copy_(self.weight, compute_interleaved_sinusoids(*self.weight.shape))


def compute_interleaved_sinusoids(count: int, width: int) -> Tensor:
    """Computes sin(p / 10000^(2i/d)) and cos of the same, (count, width), first in float64 (Vaswani et al. 2017)."""
    channels = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * 10000 ** (-2 * (channels // 2) / width)
    return torch.where(channels % 2 == 0, angles.sin(), angles.cos()).float()


TUBELET_POSITIONS: dict[str, Any] = {"learned": nn.Embedding, "sinusoidal": InterleavedSinusoids}
