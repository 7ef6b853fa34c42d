"""Towers as data: what turns one modality into tokens."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .base import LEFT_OUT, Size
from .transformer import PlaitTransformerConfig

Pooling = Literal[
    "none", "first", "last", "final", "mean", "mean_of_rest", "mean_of_two", "first_and_mean", "eos", "attention"
]


@strict
class PlaitTowerConfig(PlaitTransformerConfig):
    """What all towers share: the core, how one vector is read from the tokens, and where the tower came from.

    `pooling` picks the token(s): `first` (a class token), `last`, `final` (the last position, padded or not), `mean`,
    `mean_of_rest` (without the first), `mean_of_two` (the first two), `first_and_mean` (the first and the mean of the
    rest, side by side), `eos`, `attention` (a learned query, SigLIP), `none`. Then come, where set, `pooler_norm` (a
    norm of the core's type; `pooler_norm_eps`, where its epsilon is another), a dense layer to `pooler_size` and
    `pooler_act`. `family` names the checkpoint family (the transformers model type) and `source_config` keeps that
    checkpoint's own config.json, so that the tower can be exported to its own format.
    """

    pooling: Pooling = "none"
    pooler_norm: bool = False
    pooler_norm_eps: float | None = None
    pooler_size: int | None = None
    pooler_bias: bool = True
    pooler_act: str | None = None
    family: str | None = None
    source_config: dict[str, Any] | None = None


@strict
class PlaitTextConfig(PlaitTowerConfig):
    """A text tower: `input_ids (batch, length)` to tokens.

    `position_type` is `learned` (a table), `counted` (a table, real tokens alone counted: RoBERTa), or `none` (with
    `rope_parameters`: rotary in the core). Positions begin at `position_offset`. Token embeddings are multiplied by
    `embedding_scale`. `embedding_size` other than `hidden_size` adds a projection (ELECTRA). `type_vocab_size` 0 means
    no segment embeddings. `mlm_act` is the activation of the masked-LM head's transform (None: the head is a plain
    projection), `mlm_norm_first` puts its norm before it.
    """

    model_type = "plait_text"
    base_config_key = "text_config"

    vocab_size: int = 30522
    embedding_size: Size = LEFT_OUT
    type_vocab_size: int = 0
    position_type: Literal["learned", "counted", "none"] = "learned"
    position_offset: int = 0
    embedding_scale: float | int = 1.0
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    mlm_act: str | None = "gelu"
    mlm_norm: bool = True
    use_cache: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self._fill(embedding_size=self.hidden_size)
        super().__post_init__(**kwargs)


@strict
class PlaitVisionConfig(PlaitTowerConfig):
    """An image tower: `pixel_values (images, channels, height, width)` to tokens.

    `stem` is `patch` (one convolution of `patch_size`, ViT) or `conv` (log2(patch_size) small strided convolutions
    before the transformer; Xiao et al. 2021, https://arxiv.org/abs/2106.14881). `class_tokens` are learned tokens put
    first (1: ViT; 2: DeiT with distillation; 0: SigLIP). Position tables are interpolated (bicubic) when a picture has
    another size than `image_size`, in pixels: an int or [height, width].
    """

    model_type = "plait_vision"
    base_config_key = "vision_config"

    image_size: int | list[int] = 224
    patch_size: int | list[int] = 16
    num_channels: int = 3
    stem: Literal["patch", "conv"] = "patch"
    patch_bias: bool = True
    class_tokens: int = 1
    position_type: Literal["learned", "none"] = "learned"
    mask_token: bool = False
    tie_last_hidden_state: bool = False


@strict
class PlaitAudioConfig(PlaitTowerConfig):
    """An audio tower: `input_features (clips, num_mel_bins, frames)`, the logarithm of a mel spectrogram, to tokens.

    Two convolutions over time, the second of which halves the frames (Radford et al. 2022,
    https://arxiv.org/abs/2212.04356, section 2.2): a clip of up to 2 `max_source_positions` frames has one token for
    every two. `position_type` is `sinusoidal` (a table that is not trained), `learned`, or `none`.
    """

    model_type = "plait_audio"
    base_config_key = "audio_config"
    reads: ClassVar[str] = "input_features"

    num_mel_bins: int = 80
    max_source_positions: int = 1500
    position_type: Literal["sinusoidal", "learned", "none"] = "sinusoidal"
