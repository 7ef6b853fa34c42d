"""One processor for any mix of modalities: tokenizers, an image processor and an audio feature extractor, each
optional."""

from collections.abc import Callable, Sequence
from os import PathLike, fspath
from typing import Any, Self

from transformers import (
    BaseImageProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
)
from transformers.utils import logging

from .audio import collect_audio_rows, extract_features
from .calls import find_extractor_defaults
from .errors import check_field_types, load_part
from .images import collect_image_rows, process_images
from .inline import ImageToken, add_image_token, check_image_token, encode_inline_texts
from .options import CALL_NAMES, find_audio_options, split_options
from .parts import PROCESSOR_PARTS, SAVED_PARTS, ProcessorParts
from .rows import check_required_input, check_return_tensors, check_row_counts, count_images
from .sentence import add_prompt, find_prompts
from .sources import (
    AudioSource,
    Checkpoint,
    ImageSource,
    TextSource,
    build_frame_processor,
    find_decoder_tokenizer,
    find_feature_extractor,
    find_image_processor,
    find_num_frames,
    find_source_prompts,
    find_tokenizer,
    resolve_feature_extractor,
    resolve_frame_processor,
    resolve_image_processor,
    resolve_tokenizers,
)
from .target_images import build_target_processor, collect_target_images, process_target_images
from .targets import encode_targets
from .text import add_pad_token, collect_pair_rows, collect_text_rows, encode_texts, find_truncated_row
from .video import FrameSampling, collect_video_rows, process_videos

logger = logging.get_logger(__name__)

SAVED_FIELDS = ("chat_template", "image_token", "num_image_tokens", "num_frames", "fps", "prompts")
FINDERS: dict[str, Callable[[Checkpoint], Any]] = {
    "image_processor": find_image_processor,
    "feature_extractor": find_feature_extractor,
    "tokenizer": find_tokenizer,
    "decoder_tokenizer": find_decoder_tokenizer,
}


class PlaitProcessor(ProcessorParts):
    """Turns texts, images, audio and videos into the inputs of a plait model, and target texts into labels.

    A tokenizer without a pad token is copied and pads with its end-of-sequence token. Texts are truncated at
    `tokenizer.model_max_length`, with a warning the first time. A tokenizer that names no attention mask (SigLIP's)
    belongs to a model that attends to padding: all its texts are padded to that length.

    Args:
        image_processor, tokenizer: process images and texts.
        chat_template: default: the tokenizer's.
        feature_extractor: processes audio.
        decoder_tokenizer: tokenizer of targets and generated texts, if it differs from that of the input texts.
        image_token: the placeholder of an image inside a text (`PlaitForCausalLM`); a tokenizer without this special
            token is copied and extended.
        num_image_tokens: number of tokens of one image in the model, `model.num_image_tokens`; may be set later.
        frame_processor: processes the frames of videos, if it differs from the image processor.
        num_frames, fps: the frames to read of each video: `num_frames` at even distances, or `fps` per second (then at
            most `num_frames`); default: all.
        prompts: texts to put before every text, by name: "default" unless a call gives another.
        target_image_processor: processes the images that a model learns to generate.

    Raises:
        ValueError: no part at all, a tokenizer with neither a pad nor an end-of-sequence token, or an image token
            without a tokenizer.
    """

    prompts: dict[str, str] | None = None

    def __init__(
        self,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | dict[str, str] | None = None,
        feature_extractor: SequenceFeatureExtractor | None = None,
        decoder_tokenizer: PreTrainedTokenizerBase | None = None,
        image_token: str | None = None,
        num_image_tokens: int | None = None,
        frame_processor: BaseImageProcessor | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        prompts: dict[str, str] | None = None,
        target_image_processor: BaseImageProcessor | None = None,
    ) -> None:
        check_field_types(chat_template, image_token, prompts)
        check_image_token(tokenizer, image_token, num_image_tokens)
        FrameSampling(num_frames, fps).check()
        if tokenizer is not None:
            tokenizer = add_pad_token(tokenizer)
            tokenizer = tokenizer if image_token is None else add_image_token(tokenizer, image_token)
            chat_template = chat_template or tokenizer.chat_template
        if decoder_tokenizer is not None:
            decoder_tokenizer = add_pad_token(decoder_tokenizer)
        given = (image_processor, feature_extractor, tokenizer, decoder_tokenizer)
        parts = {name: part for name, part in zip(SAVED_PARTS, given, strict=True) if part is not None}
        if not parts and frame_processor is None and target_image_processor is None:
            raise ValueError("a PlaitProcessor needs a tokenizer, an image processor, a feature extractor, or several")
        vars(self).update(parts)
        super().__init__(**parts, chat_template=chat_template)
        self.image_token, self.num_image_tokens = image_token, num_image_tokens
        self.num_frames, self.fps = num_frames, fps
        if prompts is not None:
            self.prompts = prompts
        if frame_processor is not None:
            self.frame_processor = frame_processor
        if target_image_processor is not None:
            self.target_image_processor = target_image_processor
        self.reported_truncations: set[str] = set()

    @classmethod
    def compose(
        cls,
        text: TextSource | None = None,
        image: ImageSource | None = None,
        audio: AudioSource | None = None,
        video: ImageSource | None = None,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        decoder: TextSource | None = None,
        image_token: str | None = None,
        num_image_tokens: int | None = None,
        target_image_size: int | Sequence[int] | None = None,
        target_channels: int = 3,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool | None = None,
    ) -> Self:
        """Builds the processor for the towers that a model's `compose` takes as the same arguments.

            model = PlaitForCausalLM.compose(image=image, decoder=decoder)
            processor = PlaitProcessor.compose(
                image=image, decoder=decoder, image_token="<image>", num_image_tokens=model.num_image_tokens
            )
            model.set_image_token_id(processor.image_token_id)

        Args:
            text: a Hub id or folder with a tokenizer, a ready tokenizer, or a model that was loaded from one.
                `model_max_length` is lowered to the tower's number of positions if that is smaller.
            image: a Hub id or folder with a `preprocessor_config.json`, a ready image processor, a config or a model.
                A config, or a folder without that file, gives a default: resized to `image_size`, values in -1..1.
            audio: a Hub id or folder with a `preprocessor_config.json` for audio, a ready feature extractor, a config
                or a model. A config gives a default for its model type, such as Whisper's.
            video: as `image`, for the frames of videos.
            num_frames, fps: as in the class; the default of `num_frames` is that of the video tower's config.
            decoder: as `text`. Without `text` its tokenizer serves for all texts, and pads on the left, as generation
                requires; with a different `text` it serves for targets and generated texts.
            image_token, num_image_tokens: as in the class.
            target_image_size: pixels, or (height, width), of the images that the model learns to generate; they are
                cropped at their centre, with values in -1..1. None: no such images.
            target_channels: 3 for RGB, 1 for grey images.
            revision, subfolder, token, cache_dir, local_files_only: as in `from_pretrained`.

        Raises:
            TypeError: a source of another type.
            ValueError: a source without a tokenizer, image processor or feature extractor.
        """
        place = {"revision": revision, "subfolder": subfolder, "token": token, "cache_dir": cache_dir}
        place["local_files_only"] = local_files_only
        options = {name: value for name, value in place.items() if value is not None}
        tokenizer, decoder_tokenizer = resolve_tokenizers(text, decoder, options)
        return cls(
            image_processor=None if image is None else resolve_image_processor(image, options),
            feature_extractor=None if audio is None else resolve_feature_extractor(audio, options),
            tokenizer=tokenizer,
            decoder_tokenizer=decoder_tokenizer,
            image_token=image_token,
            num_image_tokens=num_image_tokens,
            frame_processor=None if video is None else resolve_frame_processor(video, options),
            num_frames=find_num_frames(video, options) if num_frames is None and fps is None else num_frames,
            fps=fps,
            prompts=find_source_prompts(text, options),
            target_image_processor=(
                None if target_image_size is None else build_target_processor(target_image_size, target_channels)
            ),
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """Loads a saved PlaitProcessor, or the parts of any pretrained checkpoint.

        `kwargs` are loading options, options of the parts (`padding_side="left"`, `do_resize=False`, defaults of the
        tokenizer's call such as `padding="max_length", max_length=10`), and ready parts (`tokenizer=...`) that replace
        the saved ones.

        Raises:
            OSError: no such checkpoint, or one with neither a tokenizer, an image processor nor a feature extractor.
        """
        ready = {name: kwargs.pop(name) for name in PROCESSOR_PARTS if name in kwargs}
        checkpoint = Checkpoint(fspath(pretrained_model_name_or_path), kwargs)
        parts = {name: ready[name] if name in ready else find(checkpoint) for name, find in FINDERS.items()}
        saved, _ = load_part(cls.get_processor_dict, checkpoint.name, **checkpoint.hub_options)
        frames, drawn = (
            ready.get(name) or load_part(build_frame_processor, checkpoint.name, saved.get(name))
            for name in ("frame_processor", "target_image_processor")
        )
        if frames is None and drawn is None and all(part is None for part in parts.values()):
            raise OSError(
                f"{checkpoint} has neither a tokenizer nor an image processor nor a feature extractor; make one with "
                "PlaitProcessor.compose(text=..., image=...) and save it there"
            )
        read = saved if checkpoint.is_own() else {**saved, "prompts": find_prompts(checkpoint.read_json)}
        fields = SAVED_FIELDS if checkpoint.is_own() else ("chat_template", "prompts")
        settings = {name: read.get(name) for name in fields}
        return cls(**parts, frame_processor=frames, target_image_processor=drawn, **settings)

    def __call__(
        self,
        text: Any = None,
        images: Any = None,
        text_pair: Any = None,
        return_tensors: str | None = None,
        *,
        audio: Any = None,
        sampling_rate: float | None = None,
        videos: Any = None,
        video_fps: float | None = None,
        text_target: Any = None,
        max_target_length: int | None = None,
        num_images: Sequence[int] | None = None,
        prompt: str | None = None,
        target_images: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turns a batch of rows into model inputs.

        Args:
            text: a string (one row) or a list with a string or None (no text) for every row. With an `image_token`, a
                text contains it once for every image of its row, in order.
            images: an image (one row) or a list with an image, None (no image) or a list of images for every row.
                An image is a Pillow image, an array or tensor (uint8 in 0..255 or floats in 0..1), a path, the bytes
                of a file or `datasets`' {"bytes", "path"}; see `read_image` for colours, depth and orientation.
            text_pair: second texts, as `text`.
            return_tensors: "pt" or "np"; None returns nested lists of ids, and arrays for the other modalities.
            audio: clips, in lists as for `images`: an array or tensor (samples) or (channels, samples), a path, the
                bytes of a file, `datasets`' {"array", "sampling_rate"} or {"bytes", "path"}; see `read_waveform`.
            sampling_rate: samples per second of clips that are bare arrays.
            videos: videos, in lists as for `images`: a path, the bytes of a file, an array or tensor (frames, height,
                width, channels) or (frames, channels, height, width), or a list of frames; see `collect_video_rows`.
            video_fps: frames per second of videos that are bare frames.
            text_target: the target text of every row.
            max_target_length: maximum tokens of a target, end token included; default: its tokenizer's limit.
            num_images: number of images of each row, if they reach the model by another way than `images`.
            prompt: text to put before every text; None: the default of `prompts`.
            target_images: the image of every row that the model learns to generate, each as in `images`.
            kwargs: options of the parts' calls, flat or in the dicts `text_kwargs`, `images_kwargs`, `audio_kwargs` and
                `videos_kwargs` (`num_frames`, `fps`, `do_sample_frames` and the options of the frame processor), or,
                for all parts that know them, in `common_kwargs`. By default texts are padded to the longest and
                truncated at `tokenizer.model_max_length`, unless the tokenizer was loaded with other defaults
                (`padding="max_length", max_length=10`).

        Returns:
            `input_ids`, `attention_mask` (all 0 in a row without a text or tokens) and, if the tokenizer returns it,
            `token_type_ids`, each (batch, length); `pixel_values` (batch, images, channels, height, width), zeros for
            absent images, and `image_present` (batch, images) bool (left out with an image token, if every image is
            there); `input_features` (batch, clips, mel bins, frames)
            or `input_values` (batch, clips, samples), zeros for absent clips, and `audio_present` (batch, clips) bool;
            `pixel_values_videos` (batch, clips, frames, channels, height, width) and `video_present` (batch, clips)
            bool; `input_features_mask`, `input_values_mask` or `pixel_values_videos_mask` (batch, clips, length) if
            clips have different lengths; `labels` (batch, length), padded with -100; `target_pixel_values` (batch,
            channels, height, width) in -1..1. A row may be empty here; the model rejects it unless it gets another
            input for it.

        Raises:
            TypeError: a value of another type, an unknown option.
            ValueError: an option given twice, an image or clip that cannot be read, different numbers of rows, a
                missing part, an image token without an image or the reverse, truncated image tokens, an empty target.
            FileNotFoundError: no file at the path of an image or clip.
        """
        named = {"return_tensors": return_tensors, "text_pair": text_pair, "text_target": text_target}
        options = split_options(self, kwargs, named | {"sampling_rate": sampling_rate, "video_fps": video_fps})
        return_tensors, text_pair, text_target, sampling_rate, video_fps = map(options.call.get, CALL_NAMES)
        check_return_tensors(return_tensors)
        check_required_input("audio", audio, sampling_rate=sampling_rate)
        check_required_input("videos", videos, video_fps=video_fps)
        check_required_input("text", text, text_pair=text_pair, num_images=num_images, prompt=prompt)
        check_required_input("text_target", text_target, max_target_length=max_target_length)
        texts = None if text is None else add_prompt(collect_text_rows(text), prompt, self.prompts)
        image_rows = None if images is None else collect_image_rows(images)
        clips = None if audio is None else collect_audio_rows(audio)
        video_rows = None if videos is None else collect_video_rows(videos)
        targets = None if text_target is None else collect_text_rows(text_target, "text_target")
        drawn = None if target_images is None else collect_target_images(target_images)
        rows = {"text": texts, "images": image_rows, "audio": clips, "videos": video_rows}
        check_row_counts({**rows, "text_target": targets, "target_images": drawn})
        values: dict[str, Any] = {}
        if texts is not None:
            values |= self._encode_texts(texts, text_pair, count_images(texts, image_rows, num_images), options.text)
        if image_rows is not None:
            values |= process_images(self.require_part("image", "images"), image_rows, options.images)
            if self.image_token is not None and values["image_present"].all():
                del values[
                    "image_present"
                ]  # the image tokens say it; trainers of TRL pass no input that they do not know
        if clips is not None:
            values |= self._encode_audio(clips, sampling_rate, options.audio)
        if video_rows is not None:
            values |= self._encode_videos(video_rows, video_fps, options.videos)
        if targets is not None:
            values["labels"] = self._encode_targets(targets, max_target_length)
        if drawn is not None:
            values["target_pixel_values"] = process_target_images(self.require_target_processor(), drawn)
        return BatchFeature(values, tensor_type=return_tensors)

    def _encode_texts(
        self, texts: list[str | None], text_pair: Any, counts: Sequence[int], options: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns ids and masks, image tokens included; warns once about a text truncated by default."""
        tokenizer = self.require_part("text", "text")
        pairs = collect_pair_rows(texts, text_pair)
        # transformers' chat templates request this to shift offsets; offsets here refer to the original text already
        options = {name: value for name, value in options.items() if name != "return_text_replacement_offsets"}
        token_id = self.image_token_id
        if self.image_token is None or token_id is None:
            values = encode_texts(tokenizer, texts, pairs, options)
        else:
            token = ImageToken(self.image_token, token_id, self.num_image_tokens)
            texts, pairs, values = encode_inline_texts(tokenizer, texts, pairs, token, counts, options)
        if "text" not in self.reported_truncations and not {"truncation", "max_length"} & options.keys():
            row = find_truncated_row(tokenizer, texts, pairs, values)
            self._warn_truncation(
                "text", row, f"longer than the {tokenizer.model_max_length} tokens that the model reads"
            )
        return values

    def _encode_audio(
        self, clips: list[list[Any]], sampling_rate: float | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the features of the clips; warns once about a truncated clip."""
        extractor = self.require_part("audio", "audio")
        options = find_extractor_defaults(extractor, find_audio_options(type(extractor))) | options
        values, truncated = extract_features(extractor, clips, sampling_rate, options)
        row, seconds = truncated or (None, 0.0)
        self._warn_truncation("audio", row, f"a clip of {seconds:.1f} s is longer than the feature extractor reads")
        return values

    def _encode_videos(
        self, videos: list[list[Any]], video_fps: float | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the frames of the videos, sampled by the options of the call or else the processor's settings."""
        own = FrameSampling(self.num_frames, self.fps)
        requested = {name: options.pop(name) for name in FrameSampling._fields if name in options}
        sampled = options.pop("do_sample_frames", True)
        sampling = FrameSampling(**requested) if requested else own
        reader = self.find_part("frame_processor") or self.require_part("image", "videos")
        return process_videos(reader, videos, sampling if sampled else FrameSampling(), video_fps, options)

    def _encode_targets(self, targets: list[str | None], limit: int | None) -> list[list[int]]:
        """Returns the labels of the targets; warns once about a target truncated by default."""
        tokenizer = self.target_tokenizer
        labels = encode_targets(tokenizer, targets, limit)
        truncated = labels.truncated_row if limit is None else None
        self._warn_truncation(
            "text_target", truncated, f"longer than the {tokenizer.model_max_length} tokens that the model generates"
        )
        return labels.ids

    def _warn_truncation(self, what: str, row: int | None, problem: str) -> None:
        """Warns, once for each kind of input, that a row is truncated."""
        if row is not None and what not in self.reported_truncations:
            self.reported_truncations.add(what)
            logger.warning(
                f"{what}, row {row}: {problem}, and truncated there; further rows are truncated without a warning"
            )
