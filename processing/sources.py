"""Finds tokenizers, image processors and feature extractors for a folder, Hub id, config, model or ready object."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from os import PathLike, fspath
from os.path import isdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard

from transformers import (
    CONFIG_MAPPING,
    ASTFeatureExtractor,
    AutoFeatureExtractor,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.utils import logging
from transformers.utils.hub import cached_file

from ..configuration import PlaitRNNConfig, PlaitSpectrogramConfig, PlaitTextConfig, PlaitWaveformConfig
from ..configuration.hub import select_hub_options
from ..configuration.sentence import SENTENCE_MODULES_FILE
from .errors import load_part
from .mel import PlaitMelFeatureExtractor, build_voice_feature_extractor
from .sentence import find_prompts, follow_sentence_encoder

logger = logging.get_logger(__name__)

TextSource = str | PathLike[str] | PreTrainedTokenizerBase | PreTrainedConfig | PreTrainedModel
ImageSource = str | PathLike[str] | BaseImageProcessor | PreTrainedConfig | PreTrainedModel
AudioSource = str | PathLike[str] | SequenceFeatureExtractor | PreTrainedConfig | PreTrainedModel

TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
DECODER_FOLDER = "decoder_tokenizer"  # where ProcessorMixin saves a tokenizer of that name
IMAGE_PROCESSOR_KEYS = {"image_processor_type", "feature_extractor_type", "auto_map"}
WAVEFORM_MODEL_TYPES = (PlaitWaveformConfig.model_type, "wav2vec2", "hubert")
SPECTROGRAM_MODEL_TYPES = (PlaitSpectrogramConfig.model_type, "audio-spectrogram-transformer")
# these families number real tokens from pad_token_id + 1, so that many rows of the position table are not usable
POSITIONS_AFTER_PADDING = frozenset(
    "camembert data2vec-text esm ibert layoutlmv3 lilt longformer luke markuplm mpnet roberta roberta-prelayernorm "
    "xlm-roberta xlm-roberta-xl xmod".split()
)


@dataclass(frozen=True)
class Checkpoint:
    """A folder or Hub repository, and the options to read it (`HUB_OPTIONS` and arguments of the Auto classes)."""

    name: str
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.name.startswith(("/", ".", "~")) and not isdir(self.name):
            raise FileNotFoundError(f"there is no folder {self.name!r}: pass an existing folder or a Hub id")

    def __str__(self) -> str:
        return self.name if isdir(self.name) else f"{self.name} (not a folder: read as a Hub id)"

    @property
    def hub_options(self) -> dict[str, Any]:
        """The options that concern the Hub (revision, subfolder, token, ...)."""
        return select_hub_options(self.options)

    def find_file(self, filename: str) -> str | None:
        """Returns the local path of a file, downloaded if necessary; None if there is no such file."""
        return cached_file(self.name, filename, **self.hub_options, _raise_exceptions_for_missing_entries=False)

    def read_json(self, filename: str) -> dict[str, Any] | None:
        """Returns the content of a JSON file; None if there is no such file. Raises ValueError for invalid JSON."""
        path = self.find_file(filename)
        if path is None:
            return None
        try:
            content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{filename} of {self} is not valid JSON ({error})") from error
        held = type(content).__name__
        if held != ("list" if filename == SENTENCE_MODULES_FILE else "dict"):
            raise ValueError(f"{filename} of {self} holds a {held}: restore it")
        return content

    def read_model_config(self) -> PreTrainedConfig:
        """Returns the model's config; for an unknown model type, one with the keys of the file as fields."""
        fields = self.read_json("config.json") or {}
        kind: Any = fields.get("model_type")
        known = isinstance(kind, str) and kind in CONFIG_MAPPING
        return load_part((CONFIG_MAPPING[kind] if known else PreTrainedConfig).from_dict, self.name, fields)

    def is_own(self) -> bool:
        """Returns whether a PlaitProcessor was saved here: its parts are then loaded without adjustments."""
        return (self.read_json("processor_config.json") or {}).get("processor_class") == "PlaitProcessor"


def resolve_tokenizer(source: TextSource, options: Mapping[str, Any], part: str = "text") -> PreTrainedTokenizerBase:
    """Returns the tokenizer for `part`, "text" or "decoder"; `model_max_length` is at most the number of positions.

    Raises:
        TypeError: a source that is not a `TextSource`.
        ValueError: a source without a tokenizer, such as a config.
    """
    if isinstance(source, PreTrainedTokenizerBase):
        return source
    if isinstance(source, PreTrainedModel) and source.name_or_path:
        return limit_length(resolve_tokenizer(source.name_or_path, options, part), source.config)
    if isinstance(source, (PreTrainedConfig, PreTrainedModel)):
        raise ValueError(
            f"{part}: a {type(source).__name__} that was not loaded from a checkpoint has no tokenizer; pass a ready "
            "tokenizer, or the folder or Hub id of one"
        )
    if not isinstance(source, (str, PathLike)):
        raise TypeError(
            f"{part}: a {type(source).__name__} is no tokenizer, folder, Hub id, config or model: pass one of these"
        )
    checkpoint = Checkpoint(fspath(source), options)
    tokenizer = find_decoder_tokenizer(checkpoint) if part == "decoder" else None
    tokenizer = find_tokenizer(checkpoint) if tokenizer is None else tokenizer
    if tokenizer is None:
        raise ValueError(
            f"{part}: {checkpoint} has no tokenizer (none of {', '.join(TOKENIZER_FILES)}); save one there with "
            f"tokenizer.save_pretrained({checkpoint.name!r}), or pass a ready tokenizer"
        )
    return tokenizer


def resolve_tokenizers(
    text: TextSource | None, decoder: TextSource | None, options: dict[str, Any]
) -> tuple[PreTrainedTokenizerBase | None, PreTrainedTokenizerBase | None]:
    """Returns the tokenizer of input texts, and that of targets and generated texts (None if they share the first).

    A decoder's tokenizer that serves for all texts pads on the left: generation continues from the last token.
    """
    if text is None and decoder is not None:
        tokenizer = deepcopy(resolve_tokenizer(decoder, options, "decoder"))
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # only the latter is saved
        return tokenizer, None
    tokenizer = None if text is None else resolve_tokenizer(text, options)
    if text is None or decoder is None:
        return tokenizer, None
    if not is_same_source(text, decoder):
        return tokenizer, resolve_tokenizer(decoder, options, "decoder")
    saved = isinstance(decoder, (str, PathLike))
    return tokenizer, find_decoder_tokenizer(Checkpoint(fspath(decoder), options)) if saved else None


def is_same_source(first: TextSource, second: TextSource) -> bool:
    """Returns whether two text sources have one tokenizer: the same object, or the same folder or Hub id."""
    names = {find_source_name(source) for source in (first, second)}
    return first is second or (len(names) == 1 and None not in names)


def find_source_name(source: TextSource) -> str | None:
    """Returns the folder or Hub id that a source is, or was loaded from; None for other objects."""
    if isinstance(source, PreTrainedModel):
        return source.name_or_path or None
    return fspath(source) if isinstance(source, (str, PathLike)) else None


def resolve_feature_extractor(source: AudioSource, options: Mapping[str, Any]) -> SequenceFeatureExtractor:
    """Returns the feature extractor for an audio tower; for a config or a newly initialized model, a default one.

    Raises:
        TypeError: a source that is not an `AudioSource`.
        ValueError: a source without a feature extractor for audio, from whose config none can be derived.
    """
    if isinstance(source, SequenceFeatureExtractor):
        return source
    if isinstance(source, PreTrainedModel) and source.name_or_path:
        return resolve_feature_extractor(source.name_or_path, options)
    if isinstance(source, (PreTrainedConfig, PreTrainedModel)):
        return build_default_feature_extractor(source.config if isinstance(source, PreTrainedModel) else source)
    if not isinstance(source, (str, PathLike)):
        raise TypeError(
            f"audio: a {type(source).__name__} is no feature extractor, folder, Hub id, config or model: pass one of "
            "them"
        )
    checkpoint = Checkpoint(fspath(source), options)
    found = find_feature_extractor(checkpoint)
    if found is None:
        raise ValueError(
            f"audio: {checkpoint} has no preprocessor_config.json for audio; pass a ready feature extractor, or the "
            "folder or Hub id of one"
        )
    return found


def resolve_image_processor(source: ImageSource, options: Mapping[str, Any]) -> BaseImageProcessor:
    """Returns the image processor for an image tower; for a config or a newly initialized model, a default one.

    Raises:
        TypeError: a source that is not an `ImageSource`.
        ValueError: a source with neither an image processor nor an image size.
    """
    if isinstance(source, BaseImageProcessor):
        return source
    if isinstance(source, PreTrainedModel) and source.name_or_path:
        return resolve_image_processor(source.name_or_path, options)
    if isinstance(source, (PreTrainedConfig, PreTrainedModel)):
        config = source.config if isinstance(source, PreTrainedModel) else source
        found, where = build_default_image_processor(config), f"a {type(config).__name__}"
    elif isinstance(source, (str, PathLike)):
        checkpoint = Checkpoint(fspath(source), options)
        found, where = find_image_processor(checkpoint), str(checkpoint)
    else:
        raise TypeError(
            f"image: a {type(source).__name__} is no image processor, folder, Hub id, config or model: pass one of them"
        )
    if found is None:
        raise ValueError(
            f"image: {where} has neither a preprocessor_config.json for images nor an image_size; pass a ready image "
            "processor, or the folder or Hub id of one"
        )
    return found


def build_default_feature_extractor(config: PreTrainedConfig) -> SequenceFeatureExtractor:
    """Builds the feature extractor for an audio tower's config, by its model type.

    A waveform tower gets samples, a spectrogram tower AST's spectrograms, a recurrent tower mel frames of the clip's
    length, any other tower Whisper's: 100 frames of `num_mel_bins` per second, 2 * `max_source_positions` frames.

    Raises ValueError if these fields are missing, or make no whole seconds.
    """
    audio = getattr(config, "audio_config", None) or config
    if audio.model_type in WAVEFORM_MODEL_TYPES:
        return Wav2Vec2FeatureExtractor()
    if audio.model_type in SPECTROGRAM_MODEL_TYPES:
        return ASTFeatureExtractor(num_mel_bins=audio.num_mel_bins, max_length=audio.max_length)
    if audio.model_type == PlaitRNNConfig.model_type:
        return PlaitMelFeatureExtractor(audio.num_mel_bins)
    bins, positions = (getattr(audio, name, None) for name in ("num_mel_bins", "max_source_positions"))
    if not bins or not positions or positions % 50:
        raise ValueError(
            f"audio: a {type(config).__name__} with num_mel_bins {bins} and max_source_positions {positions} (2 frames "
            "of 10 ms each) makes no whole seconds; pass a ready feature extractor, or the folder or Hub id of one"
        )
    return WhisperFeatureExtractor(feature_size=bins, chunk_length=positions // 50)


def find_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase | None:
    """Returns the checkpoint's tokenizer, limited to the positions of its model; None if it has none."""
    if not any(checkpoint.find_file(name) for name in TOKENIZER_FILES):
        return None
    tokenizer = load_part(AutoTokenizer.from_pretrained, checkpoint.name, **checkpoint.options)
    if checkpoint.is_own():
        return tokenizer
    return limit_length(follow_sentence_encoder(tokenizer, checkpoint.read_json), checkpoint.read_model_config())


def find_source_prompts(source: TextSource | None, options: Mapping[str, Any]) -> dict[str, str] | None:
    """Returns the prompts of a text source that is the folder or Hub id of a sentence encoder; None for any other."""
    name = None if source is None else find_source_name(source)
    return None if name is None else find_prompts(Checkpoint(name, options).read_json)


def find_decoder_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase | None:
    """Returns the decoder's own tokenizer from a folder of a PlaitProcessor; None if it has none."""
    if not checkpoint.is_own():
        return None
    subfolder = "/".join(part for part in (checkpoint.options.get("subfolder"), DECODER_FOLDER) if part)
    return find_tokenizer(Checkpoint(checkpoint.name, {**checkpoint.options, "subfolder": subfolder}))


def find_feature_extractor(checkpoint: Checkpoint) -> SequenceFeatureExtractor | None:
    """Returns the checkpoint's feature extractor for audio; None if it has none."""
    saved = checkpoint.read_json("processor_config.json") or {}
    fields = saved.get("feature_extractor") or checkpoint.read_json("preprocessor_config.json") or {}
    if "sampling_rate" not in fields:  # the file describes an image processor
        return build_voice_feature_extractor(checkpoint.read_json("config.json") or {})
    if fields.get("feature_extractor_type") == PlaitMelFeatureExtractor.__name__:
        return PlaitMelFeatureExtractor(**fields)
    options = {
        name: value for name, value in checkpoint.options.items() if name != "padding_side"
    }  # an option of tokenizers
    return load_part(AutoFeatureExtractor.from_pretrained, checkpoint.name, **options)


def find_image_processor(checkpoint: Checkpoint) -> BaseImageProcessor | None:
    """Returns the checkpoint's image processor (PIL backend), or a default for its image size; None without both."""
    saved = checkpoint.read_json("processor_config.json") or {}
    fields = saved.get("image_processor") or checkpoint.read_json("preprocessor_config.json")
    if fields is None:
        return (
            None
            if checkpoint.is_own()
            else build_default_image_processor(checkpoint.read_model_config(), checkpoint.name)
        )
    if "sampling_rate" in fields:  # the file describes a feature extractor for audio
        return None
    # without torchvision, transformers does not export it at the top level
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING, AutoImageProcessor

    if IMAGE_PROCESSOR_KEYS & fields.keys() or type(checkpoint.read_model_config()) in IMAGE_PROCESSOR_MAPPING:
        options = {"backend": "pil", **checkpoint.options}
        return load_part(AutoImageProcessor.from_pretrained, checkpoint.name, **options)
    return build_vit_image_processor(fields, checkpoint.options)


def resolve_frame_processor(source: ImageSource, options: Mapping[str, Any]) -> BaseImageProcessor:
    """Returns the processor of video frames: as saved in a PlaitProcessor's folder, else as for an image tower."""
    saved = Checkpoint(fspath(source), options).read_json("processor_config.json") if is_path(source) else None
    return build_frame_processor((saved or {}).get("frame_processor")) or resolve_image_processor(source, options)


def is_path(source: object) -> TypeGuard[str | PathLike[str]]:
    """Returns whether a source is a folder or Hub id."""
    return isinstance(source, (str, PathLike))


def build_frame_processor(fields: Mapping[str, Any] | None) -> BaseImageProcessor | None:
    """Builds the frame processor that a saved PlaitProcessor describes; None if it describes none."""
    if fields is None:
        return None
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    with TemporaryDirectory() as folder:  # AutoImageProcessor, which knows all classes, reads only folders
        Path(folder, "preprocessor_config.json").write_text(json.dumps(fields), encoding="utf-8")
        return AutoImageProcessor.from_pretrained(folder, backend="pil")


def find_num_frames(source: ImageSource | None, options: Mapping[str, Any]) -> int | None:
    """Returns the number of frames of a video that a checkpoint or config expects; None if it does not say."""
    if source is None or isinstance(source, BaseImageProcessor):
        return None
    if isinstance(source, (str, PathLike)):
        checkpoint = Checkpoint(fspath(source), options)
        own = (checkpoint.read_json("processor_config.json") or {}).get("num_frames")
        return own or read_num_frames(checkpoint.read_model_config())
    return read_num_frames(source.config if isinstance(source, PreTrainedModel) else source)


def read_num_frames(config: PreTrainedConfig) -> int | None:
    """Returns the number of frames in a model's or video tower's config; None if there is none."""
    return getattr(getattr(config, "video_config", None) or config, "num_frames", None)


def build_vit_image_processor(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> BaseImageProcessor:
    """Builds a ViT image processor from fields, and from those overrides that it knows."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    known = overrides.keys() & ViTImageProcessorPil.valid_kwargs.__annotations__.keys()
    return ViTImageProcessorPil(**{**fields, **{name: overrides[name] for name in known}})


def build_default_image_processor(config: PreTrainedConfig, origin: str | None = None) -> BaseImageProcessor | None:
    """Builds an image processor that resizes to `config.image_size`, with values in -1..1 (mean and standard deviation
    0.5); None without an image size. Raises ValueError for a number of channels other than 1 or 3."""
    vision = getattr(config, "vision_config", None) or getattr(config, "video_config", None) or config
    size = getattr(vision, "image_size", None)
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    channels = getattr(vision, "num_channels", 3)
    if channels not in (1, 3):
        raise ValueError(f"image: num_channels is {channels}, but images have 3 channels (RGB) or 1 (grey)")
    if origin is not None:
        logger.warning(
            f"{origin} has no preprocessor_config.json: images are resized to {height}x{width} and normalised with "
            "mean 0.5 and standard deviation 0.5"
        )
    scale = [0.5] * channels
    fields = {"size": {"height": height, "width": width}, "image_mean": scale, "image_std": scale}
    return build_vit_image_processor(fields | {"do_convert_rgb": channels == 3}, {})


def limit_length(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """Returns the tokenizer, or a copy whose `model_max_length` is the number of positions if that is smaller."""
    positions = find_max_positions(config)
    if positions is None or positions >= tokenizer.model_max_length:
        return tokenizer
    tokenizer = deepcopy(tokenizer)
    tokenizer.model_max_length = positions
    return tokenizer


def find_max_positions(config: PreTrainedConfig) -> int | None:
    """Returns the number of tokens for which the text model of a config has positions; None without a limit."""
    text = getattr(config, "text_config", None) or config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "max_target_positions", None)
    if positions is None or positions <= 0:
        return None
    if isinstance(text, PlaitTextConfig):
        return positions - text.position_offset
    return positions - (text.pad_token_id + 1 if text.model_type in POSITIONS_AFTER_PADDING else 0)
