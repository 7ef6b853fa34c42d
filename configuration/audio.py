"""The configs of audio towers: over spectrogram patches, over waveforms, and recurrent."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .base import LEFT_OUT, PlaitBaseConfig, Size
from .cnn import Sizes
from .tower import PlaitTowerConfig


@strict
class PlaitSpectrogramConfig(PlaitTowerConfig):
    """The config of an audio tower over spectrogram patches: `input_values (clips, frames, num_mel_bins)` to tokens
    (Gong et al. 2021, https://arxiv.org/abs/2104.01778, section 2.1).

    Patches of `patch_size` mel bins and frames overlap if `frequency_stride` and `time_stride` are smaller.
    `class_tokens` is the number of learned tokens put first. `max_length` is the number of frames that the position
    table was made for; the table is interpolated (bicubic) for other lengths.

    Raises ValueError for `num_mel_bins` and `max_length` smaller than one patch.
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
            raise ValueError(
                f"a spectrogram of {size} is smaller than a patch of {self.patch_size}: use a smaller patch_size"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """The number of patches along the mel bins and along the frames."""
        size = (self.patch_size,) * 2 if isinstance(self.patch_size, int) else self.patch_size
        bins = (self.num_mel_bins - size[0]) // self.frequency_stride + 1
        return bins, (self.max_length - size[1]) // self.time_stride + 1


@strict
class PlaitWaveformConfig(PlaitTowerConfig):
    """The config of an audio tower over a waveform: `input_values (clips, samples)` to tokens (Baevski et al. 2020,
    https://arxiv.org/abs/2006.11477, section 2).

    The tower begins with convolutions over time (`conv_dim`, `conv_kernel`, `conv_stride`: one number per layer).
    `feat_extract_norm` "group" normalizes each channel of the first layer over its frames, "layer" each frame of every
    layer. Positions come from one more convolution, with weight normalization, over `num_conv_pos_embeddings` frames in
    `num_conv_pos_embedding_groups` groups. SpecAugment, the masking of features in training, is left to the data
    pipeline; `mask_token` keeps the vector that a checkpoint has for it.

    Raises ValueError for lists of unequal length, or a `hidden_size` that the groups do not divide.
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
            raise ValueError(f"conv_dim, conv_kernel and conv_stride need one number per convolution, got {counts}")
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            groups = f"num_conv_pos_embedding_groups {self.num_conv_pos_embedding_groups}"
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {groups}")

    @property
    def receptive_field(self) -> int:
        """The number of samples that one token depends on, which is the length of the shortest clip."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples


@strict
class PlaitRNNConfig(PlaitBaseConfig):
    """The config of a recurrent audio tower: `input_features (clips, num_mel_bins, frames)` to one token per frame.

    `rnn_type` is `lstm` (Hochreiter and Schmidhuber 1997) or `gru` (Cho et al. 2014,
    https://arxiv.org/abs/1406.1078), `rnn_size` wide in each direction. `hidden_size`, the width of the tokens, is
    `rnn_size`, or twice that if `bidirectional`. `input_norm` normalizes each frame first. `pooling` is `mean` over the
    frames, `final` (the last layer's state after the last frame, both directions concatenated) or `none`. If set, a
    dense layer to `pooler_size` and the activation `pooler_act` follow; `pooler_normalize` divides the vector by its
    L2 norm. `family` and `source_config` as in `PlaitTowerConfig`.

    Raises ValueError for a `hidden_size` other than the width of the tokens.
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
            raise ValueError(f"hidden_size {self.hidden_size} is not the width {width} of the tokens: leave it out")
