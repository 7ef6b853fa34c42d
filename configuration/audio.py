"""Audio towers as data: of spectrogram patches, of waveforms, and recurrent ones."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .base import LEFT_OUT, PlaitBaseConfig, Size
from .cnn import Sizes
from .tower import PlaitTowerConfig


@strict
class PlaitSpectrogramConfig(PlaitTowerConfig):
    """An audio tower over patches of a spectrogram: `input_values (clips, frames, num_mel_bins)` to tokens (Gong et al.
    2021, https://arxiv.org/abs/2104.01778, section 2.1).

    Patches of `patch_size` frames and mel bins overlap where `frequency_stride` and `time_stride` are smaller.
    `class_tokens` are learned tokens put first. `max_length` is the number of frames that the position table was
    made for; it is interpolated (bicubic) for another.
    """

    model_type = "plait_spectrogram"
    base_config_key = "audio_config"
    reads: ClassVar[str] = "input_values"

    num_mel_bins: int = 128
    max_length: int = 1024
    patch_size: int | list[int] = 16
    frequency_stride: int = 10
    time_stride: int = 10
    class_tokens: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if min(self.grid) < 1:
            size = f"{self.num_mel_bins} mel bins and {self.max_length} frames"
            raise ValueError(f"a spectrogram of {size} is smaller than a patch of {self.patch_size}")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along the mel bins and along the frames."""
        size = (self.patch_size,) * 2 if isinstance(self.patch_size, int) else self.patch_size
        bins = (self.num_mel_bins - size[0]) // self.frequency_stride + 1
        return bins, (self.max_length - size[1]) // self.time_stride + 1


@strict
class PlaitWaveformConfig(PlaitTowerConfig):
    """An audio tower over samples: `input_values (clips, samples)` to tokens (Baevski et al. 2020,
    https://arxiv.org/abs/2006.11477, section 2).

    Convolutions over time (`conv_dim`, `conv_kernel`, `conv_stride`: one number a layer), normed by
    `feat_extract_norm`: "group" norms each channel of the first layer over its frames, "layer" each frame of every
    layer. Positions come from one more convolution, of `num_conv_pos_embeddings` frames in
    `num_conv_pos_embedding_groups` groups, its weight normalised. Augmentation of features in training (SpecAugment) is
    left to the data; `mask_token` keeps the vector that a checkpoint has for it.
    """

    model_type = "plait_waveform"
    base_config_key = "audio_config"
    reads: ClassVar[str] = "input_values"

    conv_dim: Sizes = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: Sizes = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: Sizes = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    feat_proj_dropout: float | int = 0.0
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    mask_token: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)
        counts = {name: len(getattr(self, name)) for name in ("conv_dim", "conv_kernel", "conv_stride")}
        if len(set(counts.values())) > 1 or not self.conv_dim:
            raise ValueError(f"one number a convolution is needed, got {counts}")
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            groups = f"num_conv_pos_embedding_groups {self.num_conv_pos_embedding_groups}"
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {groups}")

    @property
    def receptive_field(self) -> int:
        """Samples that one token sees: the shortest clip."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples


@strict
class PlaitRNNConfig(PlaitBaseConfig):
    """A recurrent audio tower: `input_features (clips, num_mel_bins, frames)`, of which it reads one frame after the
    other, to a token a frame.

    `rnn_type` is `lstm` (Hochreiter and Schmidhuber 1997) or `gru` (Cho et al. 2014,
    https://arxiv.org/abs/1406.1078), `rnn_size` wide in each direction. `hidden_size`, the width of the tokens, follows
    (twice as much where it is `bidirectional`). `input_norm` norms each frame first. `pooling` is the mean over the
    frames, `final` the last layer's state behind the last frame (of both directions, side by side), or `none`; then
    come, where set, a dense layer to `pooler_size` and `pooler_act`, and `pooler_normalize` divides by the length of
    the vector. `family` and `source_config` as in `PlaitTowerConfig`.

    Raises ValueError for a `hidden_size` other than that of the tokens.
    """

    model_type = "plait_rnn"
    base_config_key = "audio_config"
    reads: ClassVar[str] = "input_features"

    num_mel_bins: int = 80
    rnn_type: Literal["lstm", "gru"] = "lstm"
    rnn_size: int = 128
    num_hidden_layers: int = 2
    bidirectional: bool = True
    hidden_size: Size = LEFT_OUT
    hidden_dropout_prob: float | int = 0.0
    input_norm: bool = False
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pooling: Literal["mean", "final", "none"] = "mean"
    pooler_size: int | None = None
    pooler_act: str | None = None
    pooler_normalize: bool = False
    family: str | None = None
    source_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        width = self.rnn_size * (2 if self.bidirectional else 1)
        self._fill(hidden_size=width)
        super().__post_init__(**kwargs)
        if self.hidden_size != width:
            raise ValueError(f"hidden_size {self.hidden_size} is not the width {width} of the tokens")
