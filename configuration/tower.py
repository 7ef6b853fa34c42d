"""The configs of towers, which turn one modality into tokens."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .base import LEFT_OUT, Size
from .transformer import PlaitTransformerConfig

Pooling = Literal[
    "none",
    "first",
    "last",
    "final",
    "mean",
    "mean_of_rest",
    "mean_of_two",
    "first_and_mean",
    "eos",
    "attention",
    "max",
    "mean_sqrt_len",
    "weighted_mean",
]
SentencePooling = Literal["first", "last", "mean", "max", "mean_sqrt_len", "weighted_mean"]


@strict
class PlaitTowerConfig(PlaitTransformerConfig):
    """The fields that all towers share: the transformer, the pooling to one vector, and the checkpoint it came from.

    `pooling` reads one vector from the tokens: `first` (a class token), `last`, `final` (the last position, padding or
    not), `mean`, `mean_of_rest` (without the first), `mean_of_two` (the first two), `first_and_mean` (the first and the
    mean of the rest, concatenated), `eos`, `attention` (a learned query, SigLIP), `max`, `mean_sqrt_len` (the sum over
    the root of the length), `weighted_mean` (weighted by the place), `none`. If set, these follow:
    `pooler_norm` (a norm of type `norm_type`; its epsilon is `pooler_norm_eps`, by default `norm_eps`), a dense layer
    to `pooler_size`, and the activation `pooler_act`. `family` names the checkpoint's family (its model type in
    transformers); `source_config` keeps the checkpoint's config.json, so that the tower can be exported to its format.
    """

    pooling: Pooling = "none"
    pooler_norm: bool = False
    pooler_norm_eps: float | None = None
    pooler_size: int | None = None
    pooler_bias: bool = True
    pooler_act: str | None = None
    family: str | None = None
    source_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.adaptive_norm or self.relative_grid is not None:
            name = "adaptive_norm" if self.adaptive_norm else "relative_grid"
            raise ValueError(f"{name} is {getattr(self, name)}: a tower has no condition and no grid, leave it out")


@strict
class PlaitTextConfig(PlaitTowerConfig):
    """The config of a text tower: `input_ids (batch, length)` to tokens.

    `position_type` is `learned` (a table), `counted` (a table whose positions skip padding: RoBERTa), or `none` (rotary
    if `rope_parameters` is set). Positions begin at `position_offset`. Token embeddings are multiplied by
    `embedding_scale`. `embedding_size` other than `hidden_size` adds a projection (ELECTRA). `type_vocab_size` 0 means
    no segment embeddings. `mlm_act` is the activation of the masked-LM head's transform, which a norm follows (None:
    the head is a plain projection). With `lm_transform` the head of a decoder has that transform too (BERT as decoder).

    Of a sentence encoder (sentence-transformers), `sentence_pooling` lists the poolings, whose vectors are
    concatenated, and `sentence_layers` the layers that follow, each a dict: `{type: dense, size, bias, act}`,
    `{type: normalize}`, `{type: layer_norm}`, `{type: dropout, p}`. Its vector then takes the place of that of
    `pooling`.
    """

    model_type = "plait_text"
    base_config_key = "text_config"
    saved_if_set: ClassVar[tuple[str, ...]] = (
        *PlaitTowerConfig.saved_if_set,
        "sentence_pooling",
        "sentence_layers",
        "lm_transform",
    )

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
    lm_transform: bool = False
    use_cache: bool = True
    tie_word_embeddings: bool = True
    sentence_pooling: list[SentencePooling] | None = None
    sentence_layers: list[dict[str, Any]] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._fill(embedding_size=self.hidden_size)
        super().__post_init__(**kwargs)


@strict
class PlaitVisionConfig(PlaitTowerConfig):
    """The config of an image tower: `pixel_values (images, channels, height, width)` to tokens.

    `stem` is `patch` (one convolution of `patch_size`, ViT) or `conv` (log2(patch_size) small strided convolutions
    before the transformer; Xiao et al. 2021, https://arxiv.org/abs/2106.14881). `class_tokens` is the number of learned
    tokens put first (1: ViT; 2: DeiT with distillation; 0: SigLIP). `image_size` is in pixels, an int or
    [height, width]; for images of another size the position table is interpolated (bicubic).
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
    """The config of an audio tower over log-mel spectrograms: `input_features (clips, num_mel_bins, frames)` to
    tokens.

    Two convolutions over time come first; the second halves the frames (Radford et al. 2022,
    https://arxiv.org/abs/2212.04356, section 2.2), so a clip of at most `2 * max_source_positions` frames has one token
    for every two. `position_type` is `sinusoidal` (a table that is not trained), `learned`, or `none`.
    """

    model_type = "plait_audio"
    base_config_key = "audio_config"
    reads: ClassVar[str] = "input_features"

    num_mel_bins: int = 80
    max_source_positions: int = 1500
    position_type: Literal["sinusoidal", "learned", "none"] = "sinusoidal"
