"""Where a tokenizer and an image processor come from: a folder, a Hub id, a config, a model, or a ready object."""

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
from .mel import PlaitMelFeatureExtractor

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
# these count positions over real tokens, from the one after padding: the table has pad_token_id + 1 rows too many
POSITIONS_AFTER_PADDING = frozenset(
    "camembert data2vec-text esm ibert layoutlmv3 lilt longformer luke markuplm mpnet roberta roberta-prelayernorm "
    "xlm-roberta xlm-roberta-xl xmod".split()
)


@dataclass(frozen=True)
class Checkpoint:
    """A folder or a Hub repository, and how it is read (`HUB_OPTIONS` and what the Auto classes take)."""

    name: str
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.name.startswith(("/", ".", "~")) and not isdir(self.name):
            raise FileNotFoundError(f"there is no folder {self.name!r}")

    def __str__(self) -> str:
        return self.name if isdir(self.name) else f"{self.name} (not a folder: read as a Hub id)"

    @property
    def hub_options(self) -> dict[str, Any]:
        return select_hub_options(self.options)

    def find_file(self, filename: str) -> str | None:
        """Where a file is, after download; None if there is no such file."""
        return cached_file(self.name, filename, **self.hub_options, _raise_exceptions_for_missing_entries=False)

    def read_json(self, filename: str) -> dict[str, Any] | None:
        """Content of a JSON file; None if there is no such file."""
        path = self.find_file(filename)
        if path is None:
            return None
        try:
            with open(path, encoding="utf-8") as file:
                return json.load(file)
        except ValueError as error:
            raise ValueError(f"{filename} of {self} is not valid JSON ({error})") from error

    def read_model_config(self) -> PreTrainedConfig:
        """The model's config, with the keys of the file as fields if the model type is unknown."""
        fields = self.read_json("config.json") or {}
        if fields.get("model_type") in CONFIG_MAPPING:
            return CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
        return PreTrainedConfig.from_dict(fields)

    def is_own(self) -> bool:
        """Whether a PlaitProcessor was saved here: then its parts are there as they shall be."""
        return (self.read_json("processor_config.json") or {}).get("processor_class") == "PlaitProcessor"


def resolve_tokenizer(source: TextSource, options: Mapping[str, Any], part: str = "text") -> PreTrainedTokenizerBase:
    """The tokenizer for a text tower or a decoder (`part`), cut to its positions.

    Raises:
        TypeError: something else than a `TextSource`.
        ValueError: no tokenizer there; a config, which names none.
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
        raise TypeError(f"{part}: a {type(source).__name__} is no tokenizer, folder, Hub id, config or model")
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
    """The tokenizer of all texts, or of those that are read, and that of the texts written where it is another.

    A decoder's tokenizer of all texts pads on the left: generation goes on from the last token.
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
    """Whether two text sources lead to one tokenizer: the same object, or the same folder or Hub id."""
    names = {find_source_name(source) for source in (first, second)}
    return first is second or (len(names) == 1 and None not in names)


def find_source_name(source: TextSource) -> str | None:
    """The folder or Hub id that a source is, or was loaded from; None for other objects."""
    if isinstance(source, PreTrainedModel):
        return source.name_or_path or None
    return fspath(source) if isinstance(source, (str, PathLike)) else None


def resolve_feature_extractor(source: AudioSource, options: Mapping[str, Any]) -> SequenceFeatureExtractor:
    """The feature extractor for an audio tower; for a config or a model of fresh weights Whisper's of its size.

    Raises:
        TypeError: something else than an `AudioSource`.
        ValueError: no feature extractor of sound there, and no number of mel bins either.
    """
    if isinstance(source, SequenceFeatureExtractor):
        return source
    if isinstance(source, PreTrainedModel) and source.name_or_path:
        return resolve_feature_extractor(source.name_or_path, options)
    if isinstance(source, (PreTrainedConfig, PreTrainedModel)):
        return build_default_feature_extractor(source.config if isinstance(source, PreTrainedModel) else source)
    if not isinstance(source, (str, PathLike)):
        raise TypeError(f"audio: a {type(source).__name__} is no feature extractor, folder, Hub id or model")
    checkpoint = Checkpoint(fspath(source), options)
    found = find_feature_extractor(checkpoint)
    if found is None:
        raise ValueError(
            f"audio: {checkpoint} has no preprocessor_config.json of sound; pass a ready feature extractor, or the "
            "folder or Hub id of one"
        )
    return found


def resolve_image_processor(source: ImageSource, options: Mapping[str, Any]) -> BaseImageProcessor:
    """The image processor for an image tower; for a config or a model of fresh weights the default of its size.

    Raises:
        TypeError: something else than an `ImageSource`.
        ValueError: no image processor there, and no image size either.
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
        raise TypeError(f"image: a {type(source).__name__} is no image processor, folder, Hub id, config or model")
    if found is None:
        raise ValueError(
            f"image: {where} has neither a preprocessor_config.json of pictures nor an image_size; pass a ready image "
            "processor, or the folder or Hub id of one"
        )
    return found


def build_default_feature_extractor(config: PreTrainedConfig) -> SequenceFeatureExtractor:
    """What a tower of that config reads: samples, patches of a spectrogram (AST's), mel frames as long as the clip (of
    a recurrent tower), or Whisper's 100 frames a second of `num_mel_bins`, twice as many as `max_source_positions`.

    Raises ValueError for a config without these, or where they make no whole seconds.
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
    """The checkpoint's tokenizer, cut to the positions of its model; None if it has none."""
    if not any(checkpoint.find_file(name) for name in TOKENIZER_FILES):
        return None
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.name, **checkpoint.options)
    return tokenizer if checkpoint.is_own() else limit_length(tokenizer, checkpoint.read_model_config())


def find_decoder_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase | None:
    """The decoder's own tokenizer in a folder where a PlaitProcessor was saved; None if it has none."""
    if not checkpoint.is_own():
        return None
    subfolder = "/".join(part for part in (checkpoint.options.get("subfolder"), DECODER_FOLDER) if part)
    return find_tokenizer(Checkpoint(checkpoint.name, {**checkpoint.options, "subfolder": subfolder}))


def find_feature_extractor(checkpoint: Checkpoint) -> SequenceFeatureExtractor | None:
    """The checkpoint's feature extractor of sound; None if it has none."""
    saved = checkpoint.read_json("processor_config.json") or {}
    fields = saved.get("feature_extractor") or checkpoint.read_json("preprocessor_config.json") or {}
    if "sampling_rate" not in fields:  # of pictures
        return build_voice_feature_extractor(checkpoint.read_json("config.json") or {})
    if fields.get("feature_extractor_type") == PlaitMelFeatureExtractor.__name__:
        return PlaitMelFeatureExtractor(**fields)
    options = {name: value for name, value in checkpoint.options.items() if name != "padding_side"}  # meant for texts
    return AutoFeatureExtractor.from_pretrained(checkpoint.name, **options)


def build_voice_feature_extractor(config: Mapping[str, Any]) -> SequenceFeatureExtractor | None:
    """What a config.json of a voice encoder says of its frames: power, not its logarithm; None for any other."""
    names = ("feature_size", "sampling_rate", "n_fft", "hop_length", "target_dbfs")
    if "model_type" in config or any(name not in config for name in names):
        return None
    return PlaitMelFeatureExtractor(**{name: config[name] for name in names}, log=False, normalize="none")


def find_image_processor(checkpoint: Checkpoint) -> BaseImageProcessor | None:
    """The checkpoint's image processor (PIL backend), or the default of its image size; None if it has neither."""
    saved = checkpoint.read_json("processor_config.json") or {}
    fields = saved.get("image_processor") or checkpoint.read_json("preprocessor_config.json")
    if fields is None:
        return (
            None
            if checkpoint.is_own()
            else build_default_image_processor(checkpoint.read_model_config(), checkpoint.name)
        )
    if "sampling_rate" in fields:  # of sound
        return None
    # transformers does not export it without torchvision
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING, AutoImageProcessor

    if IMAGE_PROCESSOR_KEYS & fields.keys() or type(checkpoint.read_model_config()) in IMAGE_PROCESSOR_MAPPING:
        return AutoImageProcessor.from_pretrained(checkpoint.name, **{"backend": "pil", **checkpoint.options})
    return build_vit_image_processor(fields, checkpoint.options)


def resolve_frame_processor(source: ImageSource, options: Mapping[str, Any]) -> BaseImageProcessor:
    """What reads the frames of a video: as saved in a PlaitProcessor's folder, else as for an image tower."""
    saved = Checkpoint(fspath(source), options).read_json("processor_config.json") if is_path(source) else None
    return build_frame_processor((saved or {}).get("frame_processor")) or resolve_image_processor(source, options)


def is_path(source: object) -> TypeGuard[str | PathLike[str]]:
    return isinstance(source, (str, PathLike))


def build_frame_processor(fields: Mapping[str, Any] | None) -> BaseImageProcessor | None:
    """The processor of frames that a saved PlaitProcessor names by its fields; None where it has none of its own."""
    if fields is None:
        return None
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    with TemporaryDirectory() as folder:  # what knows all classes reads folders alone
        Path(folder, "preprocessor_config.json").write_text(json.dumps(fields), encoding="utf-8")
        return AutoImageProcessor.from_pretrained(folder, backend="pil")


def find_num_frames(source: ImageSource, options: Mapping[str, Any]) -> int | None:
    """How many frames of a video a checkpoint's or tower's config says that it reads; None where it does not."""
    if isinstance(source, BaseImageProcessor):
        return None
    if isinstance(source, (str, PathLike)):
        checkpoint = Checkpoint(fspath(source), options)
        own = (checkpoint.read_json("processor_config.json") or {}).get("num_frames")
        return own or read_num_frames(checkpoint.read_model_config())
    return read_num_frames(source.config if isinstance(source, PreTrainedModel) else source)


def read_num_frames(config: PreTrainedConfig) -> int | None:
    return getattr(getattr(config, "video_config", None) or config, "num_frames", None)


def build_vit_image_processor(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> BaseImageProcessor:
    """A ViT's image processor with these fields; of the overrides only those that it knows."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    known = overrides.keys() & ViTImageProcessorPil.valid_kwargs.__annotations__.keys()
    return ViTImageProcessorPil(**{**fields, **{name: overrides[name] for name in known}})


def build_default_image_processor(config: PreTrainedConfig, origin: str | None = None) -> BaseImageProcessor | None:
    """Pictures resized to `config.image_size`, values in -1..1 (mean and deviation 0.5); None without an image size."""
    vision = getattr(config, "vision_config", None) or getattr(config, "video_config", None) or config
    size = getattr(vision, "image_size", None)
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    channels = getattr(vision, "num_channels", 3)
    if channels not in (1, 3):
        raise ValueError(f"image: num_channels is {channels}, but pictures have 3 channels (RGB) or 1 (grey)")
    if origin is not None:
        logger.warning(
            f"{origin} has no preprocessor_config.json: pictures are resized to {height}x{width} and normalised with "
            "mean 0.5 and deviation 0.5"
        )
    scale = [0.5] * channels
    fields = {"size": {"height": height, "width": width}, "image_mean": scale, "image_std": scale}
    return build_vit_image_processor(fields | {"do_convert_rgb": channels == 3}, {})


def limit_length(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy whose `model_max_length` is the number of positions if that is smaller."""
    positions = find_max_positions(config)
    if positions is None or positions >= tokenizer.model_max_length:
        return tokenizer
    tokenizer = deepcopy(tokenizer)
    tokenizer.model_max_length = positions
    return tokenizer


def find_max_positions(config: PreTrainedConfig) -> int | None:
    """How many tokens the text model of this config can place; None without a limit."""
    text = getattr(config, "text_config", None) or config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "max_target_positions", None)
    if positions is None or positions <= 0:
        return None
    if isinstance(text, PlaitTextConfig):
        return positions - text.position_offset
    return positions - (text.pad_token_id + 1 if text.model_type in POSITIONS_AFTER_PADDING else 0)
