"""The config of a whole plait."""

import dataclasses
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, PreTrainedConfig

from .audio import PlaitRNNConfig, PlaitSpectrogramConfig, PlaitWaveformConfig
from .base import LEFT_OUT, PlaitBaseConfig, Resolved
from .cnn import PlaitCNNConfig
from .decoder import PlaitDecoderConfig
from .fusion import PlaitFusionConfig
from .modalities import CONFIG_FIELDS
from .objectives import check_objective_weights
from .retrieval import DOCUMENT, PlaitRetrievalConfig
from .tower import PlaitAudioConfig, PlaitTextConfig, PlaitVisionConfig
from .video import PlaitTubeletConfig, PlaitVideoConfig
from .width import width_of

SubConfig = Resolved[dict[str, Any] | PreTrainedConfig | None, PreTrainedConfig | None]
LabelNames = Resolved[dict[int, str] | dict[str, str] | None, dict[int, str]]
FusionConfig = Resolved[dict[str, Any] | PreTrainedConfig | None, PlaitFusionConfig | None]
RetrievalConfig = Resolved[dict[str, Any] | PreTrainedConfig | None, PlaitRetrievalConfig | None]

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
    )
}


def build_sub_config(value: dict[str, Any] | PreTrainedConfig | None, default: type[PreTrainedConfig]) -> Any:
    """A tower's config as an object: ours, or (a wrapped tower) that of any model type transformers knows."""
    if not isinstance(value, dict):
        return value
    model_type = value.get("model_type", default.model_type)
    config_class = OWN_CONFIGS.get(model_type) or CONFIG_MAPPING[model_type]
    return config_class(**{key: item for key, item in value.items() if key != "model_type"})


@strict
class PlaitConfig(PlaitBaseConfig):
    """Several towers, a fusion and, if there is one, a decoder.

    A sub-config is ours (a native tower) or any transformers config (a wrapped one); None where there is no such part.
    One strand alone has neither connector nor fusion. Nothing depends on the order of a dict: `encoders` always gives
    text, image, audio, video.

    Towers reach a decoder in one of two ways: as the context of its cross-attention (`decoder_config.cross_attention`;
    then `is_encoder_decoder` is True), or inline, their tokens in the place of the `image_token_id` tokens of its text
    (`fusion_config.strategy` is "inline"); `bidirectional_images` lets the tokens of one image see each other there.
    `lm_head_bias` gives the projection to the vocabulary a bias. With `tie_word_embeddings` that projection's weights
    are the token embeddings; with `tie_encoder_embeddings` as well those of the text tower are (BART).

    A `retrieval_config` says how the towers' vectors are compared in one space; then towers need no fusion.
    `document_config` is a second tower for one of the modalities, that of what is searched.

    Special tokens are read here, not in a part's config; those left out are lifted from the decoder's, else the text
    tower's.

    `objectives` weighs what `PlaitForPreTraining` learns (None: all that the parts allow, alike); `image_mask_ratio` is
    the share of a picture's patches that masked image modelling hides, 0..1, and with `norm_pix_loss` their pixels are
    predicted normalised patch by patch.

    Raises:
        ValueError: no tower and no decoder; more than one tower without a fusion; `fusion_config.query` names a
            modality that has no tower; towers that do not reach the decoder; embeddings that cannot be tied; documents
            that nothing reads; an unknown objective, or a weight or ratio out of its range.
    """

    model_type = "plait"
    # a Trainer's predictions are the logits alone
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "encoder_last_hidden_state"]
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "text_config": PlaitTextConfig,
        "vision_config": PlaitVisionConfig,
        "audio_config": PlaitAudioConfig,
        "video_config": PlaitVideoConfig,
        "decoder_config": PlaitDecoderConfig,
        "fusion_config": PlaitFusionConfig,
        "document_config": PlaitTextConfig,
        "retrieval_config": PlaitRetrievalConfig,
    }

    text_config: SubConfig = LEFT_OUT
    vision_config: SubConfig = LEFT_OUT
    audio_config: SubConfig = LEFT_OUT
    video_config: SubConfig = LEFT_OUT
    decoder_config: SubConfig = LEFT_OUT
    fusion_config: FusionConfig = LEFT_OUT
    document_config: SubConfig = LEFT_OUT
    retrieval_config: RetrievalConfig = LEFT_OUT
    id2label: LabelNames = LEFT_OUT
    classifier_dropout: float | int = 0.0
    classifier_bias: bool = True
    distillation_head: bool = False
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
        for field, config_class in self.sub_configs.items():
            setattr(self, field, build_sub_config(getattr(self, field), config_class))
        super().__post_init__(**kwargs)
        self._check_parts()
        self._lift_tokens()
        if self.objectives:
            check_objective_weights(self.objectives)
        if not 0 < self.image_mask_ratio < 1:
            raise ValueError(f"image_mask_ratio is {self.image_mask_ratio}: expected a share between 0 and 1")
        self.is_encoder_decoder = self.decoder_config is not None and bool(self.encoders) and not self.inline

    @property
    def encoders(self) -> dict[str, PreTrainedConfig]:
        """The towers' configs by modality, in the order text, image, audio, video."""
        configs = {modality: getattr(self, field) for modality, field in CONFIG_FIELDS.items()}
        return {modality: config for modality, config in configs.items() if config is not None}

    @property
    def towers(self) -> dict[str, PreTrainedConfig]:
        """The encoders' configs and, where documents have a tower of their own, theirs (as "document")."""
        return self.encoders | ({} if self.document_config is None else {DOCUMENT: self.document_config})

    @property
    def sides(self) -> dict[str, str]:
        """What is compared in one space, and the modality of each: the encoders and, where there are any, documents."""
        sides = {modality: modality for modality in self.encoders}
        document = None if self.retrieval_config is None else self.retrieval_config.document
        return sides | ({} if document is None else {DOCUMENT: document})

    @property
    def single(self) -> PreTrainedConfig | None:
        """The only strand's config, or None when there are several."""
        strands = [*self.encoders.values(), *([self.decoder_config] if self.decoder_config is not None else [])]
        return strands[0] if len(strands) == 1 and self.fusion_config is None else None

    @property
    def inline(self) -> bool:
        """Whether the towers' tokens stand in the decoder's own sequence."""
        return self.fusion_config is not None and self.fusion_config.strategy == INLINE

    @property
    def hidden_size(self) -> int:
        """Width of the tokens that a head reads."""
        if self.decoder_config is not None:
            return width_of(self.decoder_config)
        if self.single is not None:
            return width_of(self.single, next(iter(self.encoders), None))
        return (self.fusion_config or self.get_text_config()).hidden_size

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The decoder's config, else the text tower's, else this one: caches, beams and resizing read it."""
        ordered = [self.text_config, self.decoder_config] if encoder and not decoder else []
        for config in (*ordered, self.decoder_config, self.text_config):
            if config is not None:
                return config
        return self

    def _lift_tokens(self) -> None:
        """Special tokens left out here are those of the decoder, else of the text tower. A decoder without a token for
        padding pads with its end of sequence, one without a start begins with its first token (bos, else eos)."""
        written = self.get_text_config()
        self._fill(**{name: getattr(written, name, None) for name in SPECIAL_TOKENS})
        if self.decoder_config is not None:
            end = self.eos_token_id[0] if isinstance(self.eos_token_id, list) else self.eos_token_id
            self._fill(pad_token_id=end)
            self._fill(decoder_start_token_id=end if self.bos_token_id is None else self.bos_token_id)

    def _check_parts(self) -> None:
        encoders = self.encoders
        if len(encoders) > 1 and self.fusion_config is None and self.retrieval_config is None:
            raise ValueError(f"the towers {', '.join(encoders)} need a fusion_config")
        document = None if self.retrieval_config is None else self.retrieval_config.document
        if document is None and self.document_config is not None:
            raise ValueError("document_config is a tower of what? Name it in retrieval_config.document, such as 'text'")
        if document is not None and self.document_config is None and document not in encoders:
            raise ValueError(f"retrieval_config.document is {document!r}, which no tower reads: add a document_config")
        query = self.fusion_config.query if self.fusion_config is not None else None
        if query is not None and query not in encoders:
            raise ValueError(f"fusion_config.query is {query!r}, but there are towers only for {', '.join(encoders)}")
        decoder = self.decoder_config
        if self.inline and (decoder is None or set(encoders) != {"image"}):
            parts = ", ".join([*encoders, *(["decoder"] if decoder is not None else [])])
            raise ValueError(f"the strategy 'inline' puts an image tower's tokens into a decoder's text, not {parts}")
        if isinstance(decoder, PlaitDecoderConfig) and bool(encoders) != (decoder.cross_attention or self.inline):
            what = "a context to read, but there is no tower" if not encoders else "towers, but reads no context"
            raise ValueError(f"decoder_config has {what}: set cross_attention, or fusion_config.strategy to 'inline'")
        if self.tie_encoder_embeddings:
            shapes = [find_embedding_shape(config) for config in (self.text_config, decoder)]
            if None in shapes or shapes[0] != shapes[1]:
                tables = f"the text tower has {shapes[0]}, the decoder {shapes[1]}"
                raise ValueError(f"tie_encoder_embeddings: embeddings (vocab_size, embedding_size) differ: {tables}")


def find_embedding_shape(config: PreTrainedConfig | None) -> tuple[int, int] | None:
    """The shape of a text part's token embeddings; None for a wrapped part, or none."""
    return (config.vocab_size, config.embedding_size) if isinstance(config, PlaitTextConfig) else None
