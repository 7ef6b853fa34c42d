"""The config of a whole model."""

import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from .audio import PlaitRNNConfig, PlaitSpectrogramConfig, PlaitWaveformConfig
from .autoencoder import ImageShape, PlaitAutoencoderConfig
from .base import LEFT_OUT, PlaitBaseConfig, Resolved
from .cnn import PlaitCNNConfig
from .decoder import PlaitDecoderConfig
from .denoiser import PlaitDenoiserConfig
from .fusion import PlaitFusionConfig
from .main_part import MainPartSize, PresentSubConfigs, VocabularySize
from .modalities import CONFIG_FIELDS
from .objectives import check_objective_weights
from .remote_code.entry import build_auto_map, read_auto_map, write_remote_code
from .retrieval import DOCUMENT, PlaitRetrievalConfig
from .tower import PlaitAudioConfig, PlaitTextConfig, PlaitVisionConfig
from .video import PlaitTubeletConfig, PlaitVideoConfig
from .width import width_of

SubConfig = Resolved[dict[str, Any] | PreTrainedConfig | None, PreTrainedConfig | None]
LabelNames = Resolved[dict[int, str] | dict[str, str] | None, dict[int, str]]
FusionConfig = Resolved[dict[str, Any] | PreTrainedConfig | None, PlaitFusionConfig | None]
RetrievalConfig = Resolved[dict[str, Any] | PreTrainedConfig | None, PlaitRetrievalConfig | None]
DenoiserConfig = Resolved[dict[str, Any] | PreTrainedConfig | None, PlaitDenoiserConfig | None]
AutoencoderConfig = Resolved[dict[str, Any] | PreTrainedConfig | None, PlaitAutoencoderConfig | None]

INLINE = "inline"
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
OWN_CONFIGS = {
    config.model_type: config
    for config in (
        PlaitTextConfig,
        PlaitVisionConfig,
        PlaitCNNConfig,
        PlaitAudioConfig,
        PlaitSpectrogramConfig,
        PlaitWaveformConfig,
        PlaitRNNConfig,
        PlaitVideoConfig,
        PlaitTubeletConfig,
        PlaitDecoderConfig,
        PlaitFusionConfig,
        PlaitRetrievalConfig,
        PlaitDenoiserConfig,
        PlaitAutoencoderConfig,
    )
}
"""The config classes of plait by `model_type`."""
SUB_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "text_config": PlaitTextConfig,
    "vision_config": PlaitVisionConfig,
    "audio_config": PlaitAudioConfig,
    "video_config": PlaitVideoConfig,
    "decoder_config": PlaitDecoderConfig,
    "fusion_config": PlaitFusionConfig,
    "document_config": PlaitTextConfig,
    "retrieval_config": PlaitRetrievalConfig,
    "denoiser_config": PlaitDenoiserConfig,
    "autoencoder_config": PlaitAutoencoderConfig,
}
SAVED_IF_SET = ("target_mean", "target_std", "denoiser_config", "autoencoder_config")
# what `to_dict` adds for tools that read a dict; a file does not hold it twice
ANSWERED_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


def build_sub_config(value: dict[str, Any] | PreTrainedConfig | None, default: type[PreTrainedConfig]) -> Any:
    """Builds a tower's config from a dict: ours or, for a wrapped tower, that of any model type transformers knows."""
    if not isinstance(value, dict):
        return value
    model_type = value.get("model_type", default.model_type)
    config_class = OWN_CONFIGS.get(model_type) or CONFIG_MAPPING[model_type]
    return config_class(**{key: item for key, item in value.items() if key != "model_type"})


@strict
class PlaitConfig(PlaitBaseConfig):
    """The config of a model: its towers, their fusion and its decoder, each optional.

    A sub-config is ours (a native tower) or any transformers config (a wrapped tower); None means no such part. A model
    of one component has neither connector nor fusion. The order of towers is fixed: text, image, audio, video.

    Towers reach a decoder in one of two ways: as the context of its cross-attention (`decoder_config.cross_attention`;
    then `is_encoder_decoder` is True), or inline, their tokens in the place of the `image_token_id` tokens of its text
    (`fusion_config.strategy` is "inline"); `bidirectional_images` then lets the tokens of one image attend to each
    other in both directions. `lm_head_bias` gives the projection to the vocabulary a bias. `tie_word_embeddings` ties
    that projection to the token embeddings, `tie_encoder_embeddings` those of the text tower to the decoder's (BART).

    A `retrieval_config` says how the towers' vectors are compared in one space; then towers need no fusion.
    `document_config` is a second tower for one of the modalities, which encodes the documents that are searched.

    A `denoiser_config` is that of the denoiser of `PlaitForImageGeneration`, which turns noise into an image under the
    condition of the towers; an `autoencoder_config`, that of the autoencoder on whose latents the denoiser works.

    The special tokens of this config count, not those of a part's; they default to the decoder's, else the text
    tower's.

    `target_mean` and `target_std`, one number or one for each output, are those of a regression's training targets: its
    head computes standardized values, and its logits are in the targets' unit.

    `objectives` holds the loss weights of `PlaitForPreTraining` (None: all objectives that the parts allow, weighted
    equally). `image_mask_ratio` is the share of an image's patches that masked image modelling hides, 0..1; with
    `norm_pix_loss` the pixels to predict are normalized per patch.

    Raises:
        ValueError: more than one tower without a fusion; `fusion_config.query` names a modality that has no tower;
            towers that do not reach the decoder; embeddings that cannot be tied; a document modality without a tower,
            or a document tower without a modality; an unknown objective, or a weight or ratio out of its range.
    """

    model_type = "plait"
    # a Trainer's predictions are the logits only
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "encoder_last_hidden_state"]
    sub_configs: ClassVar[Any] = PresentSubConfigs(SUB_CONFIGS)
    vocab_size: ClassVar[Any] = VocabularySize()
    num_hidden_layers: ClassVar[Any] = MainPartSize()
    num_attention_heads: ClassVar[Any] = MainPartSize()
    num_key_value_heads: ClassVar[Any] = MainPartSize()
    head_dim: ClassVar[Any] = MainPartSize()

    text_config: SubConfig = LEFT_OUT
    vision_config: SubConfig = LEFT_OUT
    audio_config: SubConfig = LEFT_OUT
    video_config: SubConfig = LEFT_OUT
    decoder_config: SubConfig = LEFT_OUT
    fusion_config: FusionConfig = LEFT_OUT
    document_config: SubConfig = LEFT_OUT
    retrieval_config: RetrievalConfig = LEFT_OUT
    denoiser_config: DenoiserConfig = LEFT_OUT
    autoencoder_config: AutoencoderConfig = LEFT_OUT
    id2label: LabelNames = LEFT_OUT
    classifier_dropout: float | int = 0.0
    classifier_bias: bool = True
    distillation_head: bool = False
    target_mean: float | int | list[float | int] | None = None
    target_std: float | int | list[float | int] | None = None
    initializer_range: float = 0.02
    image_token_id: int | None = None
    bidirectional_images: bool = False
    lm_head_bias: bool = False
    tie_word_embeddings: bool = True
    tie_encoder_embeddings: bool = False
    objectives: dict[str, float | int] | None = None
    image_mask_ratio: float = 0.6
    norm_pix_loss: bool = True
    decoder_start_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    auto_map: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self, **kwargs: Any) -> None:
        for field, config_class in SUB_CONFIGS.items():
            setattr(self, field, build_sub_config(getattr(self, field), config_class))
        super().__post_init__(**self._drop_answers(kwargs))
        self._check_parts()
        self._lift_tokens()
        if self.objectives:
            check_objective_weights(self.objectives)
        self.check_target_scale()
        if not 0 < self.image_mask_ratio < 1:
            raise ValueError(f"image_mask_ratio is {self.image_mask_ratio}: expected a share above 0 and below 1")
        self.auto_map = read_auto_map(self.auto_map)
        self.is_encoder_decoder = self.decoder_config is not None and bool(self.encoders) and not self.inline

    def check_target_scale(self) -> None:
        """Raises ValueError for a `target_std` that is not above 0, or without a `target_mean`."""
        deviations = self.target_std if isinstance(self.target_std, list) else [self.target_std]
        wrong = [std for std in deviations if std is not None and not 0 < std < float("inf")]
        if wrong or (self.target_mean is None) != (self.target_std is None):
            raise ValueError(
                f"target_std is {self.target_std} and target_mean is {self.target_mean}: set both, the mean and the "
                "standard deviation (above 0) of a regression's training targets, or neither"
            )

    @property
    def encoders(self) -> dict[str, PreTrainedConfig]:
        """The towers' configs by modality, in the order text, image, audio, video."""
        configs = {modality: getattr(self, field) for modality, field in CONFIG_FIELDS.items()}
        return {modality: config for modality, config in configs.items() if config is not None}

    @property
    def towers(self) -> dict[str, PreTrainedConfig]:
        """The configs of the towers by modality and, if set, that of the document tower (as "document")."""
        return self.encoders | ({} if self.document_config is None else {DOCUMENT: self.document_config})

    @property
    def sides(self) -> dict[str, str]:
        """The sides that retrieval compares, and the modality of each: the towers and, if configured, documents."""
        sides = {modality: modality for modality in self.encoders}
        document = None if self.retrieval_config is None else self.retrieval_config.document
        return sides | ({} if document is None else {DOCUMENT: document})

    @property
    def single(self) -> PreTrainedConfig | None:
        """The config of the only component, or None if there are several or a fusion."""
        parts = [*self.encoders.values(), *([self.decoder_config] if self.decoder_config is not None else [])]
        return parts[0] if len(parts) == 1 and self.fusion_config is None else None

    @property
    def inline(self) -> bool:
        """Whether the towers' tokens are part of the decoder's own sequence."""
        return self.fusion_config is not None and self.fusion_config.strategy == INLINE

    @property
    def image_shape(self) -> ImageShape:
        """The shape of the generated images, of a config with a denoiser."""
        denoiser, autoencoder = self.denoiser_config, self.autoencoder_config
        if denoiser is None:
            raise AttributeError("this config has no denoiser_config: it generates no images")
        factor = 1 if autoencoder is None else autoencoder.downsampling
        channels = denoiser.num_channels if autoencoder is None else autoencoder.num_channels
        height, width = denoiser.height_width
        return ImageShape(channels, height * factor, width * factor, denoiser.patch_size, factor)

    @property
    def main_part(self) -> PreTrainedConfig | None:
        """The config of the part whose tokens a head reads: the decoder, the only component or the fusion; of towers
        apart, the text tower; None without such a part. Sizes that this config is asked for are this part's."""
        parts = (self.decoder_config, self.single, self.fusion_config, self.text_config)
        return next((part for part in parts if part is not None), None)

    @property
    def hidden_size(self) -> int:
        """The width of the tokens that a head reads."""
        if self.main_part is None:
            raise AttributeError("these towers are apart: each has its own hidden_size")
        names = {id(config): modality for modality, config in self.encoders.items()}  # of a config of two towers
        return width_of(self.main_part, names.get(id(self.main_part)))

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as a dict: without absent parts, and with the sizes of the main part, which tools such as
        peft look for at the top."""
        present = {name: value for name, value in super().to_dict().items() if value or name not in SUB_CONFIGS}
        return present | self._collect_answers()

    def to_diff_dict(self) -> dict[str, Any]:
        """Returns what a config.json holds: every part, None if absent, and each size once, in its part; the scale of
        targets, the denoiser and its autoencoder only if they are set."""
        content = {name: value for name, value in super().to_diff_dict().items() if name not in ANSWERED_SIZES}
        whole = {**dict.fromkeys(SUB_CONFIGS), **content, "auto_map": build_auto_map(self.auto_map)}
        return {name: value for name, value in whole.items() if value is not None or name not in SAVED_IF_SET}

    def to_json_file(self, json_file_path: str | PathLike[str], use_diff: bool = True) -> None:
        """Writes the config, and beside a config.json the code that its `auto_map` names."""
        super().to_json_file(json_file_path, use_diff)
        if use_diff and Path(json_file_path).name == CONFIG_NAME:
            write_remote_code(json_file_path)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Does nothing for this class, whose folders name the installed plait; a subclass's code is saved with it."""
        if cls is not PlaitConfig:
            super().register_for_auto_class(auto_class)

    def _collect_answers(self) -> dict[str, Any]:
        """Returns the sizes that this config answers from its parts."""
        answers = {name: getattr(self, name, None) for name in ANSWERED_SIZES}
        return {name: value for name, value in answers.items() if value is not None}

    def _drop_answers(self, keys: dict[str, Any]) -> dict[str, Any]:
        """Returns the keys without the sizes that `to_dict` added, if they are the parts'."""
        answers = self._collect_answers() if not keys.keys().isdisjoint(ANSWERED_SIZES) else {}
        return {name: value for name, value in keys.items() if name not in answers or answers[name] != value}

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Returns the decoder's config, else the text tower's, else this one: caches, beams and resizing use it."""
        ordered = [self.text_config, self.decoder_config] if encoder and not decoder else []
        for config in (*ordered, self.decoder_config, self.text_config):
            if config is not None:
                return config
        return self

    def _lift_tokens(self) -> None:
        """Fills in special tokens: those of the decoder, else of the text tower. A decoder's padding token defaults to
        its end of sequence, its start token to its beginning of sequence, else its end of sequence."""
        source = self.get_text_config()
        self._fill(**{name: getattr(source, name, None) for name in SPECIAL_TOKENS})
        if self.decoder_config is not None:
            end = self.eos_token_id[0] if isinstance(self.eos_token_id, list) else self.eos_token_id
            self._fill(pad_token_id=end)
            self._fill(decoder_start_token_id=end if self.bos_token_id is None else self.bos_token_id)

    def _check_parts(self) -> None:
        encoders = self.encoders
        if len(encoders) > 1 and self.fusion_config is None and self.retrieval_config is None:
            raise ValueError(
                f"the towers {', '.join(encoders)} need a fusion_config (or, to compare them, a retrieval_config)"
            )
        document = None if self.retrieval_config is None else self.retrieval_config.document
        if document is None and self.document_config is not None:
            raise ValueError(
                "document_config is set, but retrieval_config.document is None: "
                "set it to the modality of the documents, e.g. 'text'"
            )
        if document is not None and self.document_config is None and document not in encoders:
            raise ValueError(f"retrieval_config.document is {document!r}, but no tower reads it: add a document_config")
        query = self.fusion_config.query if self.fusion_config is not None else None
        if query is not None and query not in encoders:
            raise ValueError(
                f"fusion_config.query is {query!r}, but the towers are {', '.join(encoders)}: name one of them"
            )
        self._check_decoder()

    def _check_decoder(self) -> None:
        encoders, decoder = self.encoders, self.decoder_config
        if self.inline and (decoder is None or set(encoders) != {"image"}):
            parts = ", ".join([*encoders, *(["decoder"] if decoder is not None else [])])
            raise ValueError(f"strategy 'inline' needs an image tower and a decoder, and no other tower; got {parts}")
        if isinstance(decoder, PlaitDecoderConfig) and bool(encoders) != (decoder.cross_attention or self.inline):
            what = (
                "set, but there is no tower: clear it, or add a tower"
                if not encoders
                else "not set, but there are towers: set it, or set fusion_config.strategy to 'inline'"
            )
            raise ValueError(f"decoder_config.cross_attention is {what}")
        if isinstance(decoder, PlaitDecoderConfig) and self.fusion_config is not None:
            field = "embedding_size" if self.inline else "context_size"
            if getattr(decoder, field) != self.fusion_config.hidden_size:
                raise ValueError(
                    f"fusion_config.hidden_size is {self.fusion_config.hidden_size}, but decoder_config.{field} is "
                    f"{getattr(decoder, field)}: the decoder reads the fused tokens, so they must be equal"
                )
        if self.tie_encoder_embeddings:
            shapes = [find_embedding_shape(config) for config in (self.text_config, decoder)]
            if None in shapes or shapes[0] != shapes[1]:
                tables = f"{shapes[0]} in the text tower, {shapes[1]} in the decoder"
                raise ValueError(f"tie_encoder_embeddings needs equal (vocab_size, embedding_size), got {tables}")


def find_embedding_shape(config: PreTrainedConfig | None) -> tuple[int, int] | None:
    """Returns the shape of a text tower's or decoder's token embeddings; None for a wrapped part, or without one."""
    return (config.vocab_size, config.embedding_size) if isinstance(config, PlaitTextConfig) else None


def register_configs() -> None:
    """Makes `AutoConfig.from_pretrained` load plait's configs; calling it again changes nothing."""
    for config in (PlaitConfig, *OWN_CONFIGS.values()):
        AutoConfig.register(config.model_type, config, exist_ok=True)
