"""The parts of a processor, each of which it may lack, and what they are asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from transformers import BaseImageProcessor, PreTrainedTokenizerBase, ProcessorMixin, SequenceFeatureExtractor
from transformers import __version__ as transformers_version

from ..configuration.modalities import MODALITY_TABLE
from .saving import FolderProcessor

SAVED_PARTS = ("image_processor", "feature_extractor", "tokenizer", "decoder_tokenizer")
CLIPS_METHOD = "_multimodal_inputs_from_conversations"  # of newer versions of transformers
PROCESSOR_PARTS = (*SAVED_PARTS, "frame_processor", "target_image_processor")


class PresentPartNames:
    """Replaces `ProcessorMixin.get_attributes`, which saving calls: a class has all parts, a processor only its own."""

    def __get__(self, processor: "ProcessorParts | None", owner: type) -> Callable[[], list[str]]:
        return lambda: [name for name in SAVED_PARTS if processor is None or name in vars(processor)]


class ProcessorParts(FolderProcessor):
    """A processor with any of the parts; those that it lacks are not attributes: `hasattr` tells."""

    image_processor: BaseImageProcessor
    tokenizer: PreTrainedTokenizerBase
    feature_extractor: SequenceFeatureExtractor
    decoder_tokenizer: PreTrainedTokenizerBase
    frame_processor: BaseImageProcessor
    target_image_processor: BaseImageProcessor
    image_token: str | None
    get_attributes = PresentPartNames()  # pyright: ignore[reportAssignmentType]

    def __getattr__(self, name: str) -> Any:
        """Raises AttributeError for an absent part, and says how to get one."""
        if name in PROCESSOR_PARTS:
            raise AttributeError(f"this processor has no {name}: compose it with one, PlaitProcessor.compose(...)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings that are saved: None for an absent frame processor, prompts only if there are any."""
        saved = {"frame_processor": None, **super().to_dict()}
        return {name: value for name, value in saved.items() if name != "prompts" or value is not None}

    def find_part(self, name: str) -> Any:
        """Returns the part of this name, such as "tokenizer"; None if the processor lacks it."""
        return vars(self).get(name)

    def require_part(self, modality: str, what: str) -> Any:
        """Returns the part that processes a modality; raises ValueError if there is none."""
        name = MODALITY_TABLE[modality].processor_part
        part = self.find_part(name)
        if part is None:
            raise ValueError(
                f"this processor has no {name}, so it cannot read {what}; compose it with one: "
                f"PlaitProcessor.compose({modality}=...)"
            )
        return part

    def require_target_processor(self) -> BaseImageProcessor:
        """Returns the part that processes target images; raises ValueError if there is none."""
        part = self.find_part("target_image_processor")
        if part is None:
            raise ValueError(
                "this processor has no target_image_processor, so it cannot read target_images; compose it with one: "
                "PlaitProcessor.compose(target_image_size=...)"
            )
        return part

    @property
    def target_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of targets and generated texts; raises ValueError if there is none."""
        return self.find_part("decoder_tokenizer") or self.require_part("text", "token ids")

    @property
    def image_token_id(self) -> int | None:
        """The id of `image_token`, which must equal `model.config.image_token_id`; None without an image token."""
        tokenizer = self.find_part("tokenizer")
        if tokenizer is None or self.image_token is None:
            return None
        return tokenizer.convert_tokens_to_ids(self.image_token)

    @property
    def model_input_names(self) -> list[str]:
        """The names of the model inputs that a call returns, without labels."""
        read = map(self.find_part, ("tokenizer", "image_processor", "feature_extractor"))
        text, image, audio = (getattr(part, "model_input_names", []) for part in read)
        names = [*text, *image, *(["image_present"] if image else [])]
        names += [audio[0], "audio_present"] if audio else []
        names += ["pixel_values_videos", "video_present"] if self.find_part("frame_processor") else []
        names += ["target_pixel_values"] if self.find_part("target_image_processor") else []
        return names

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """Decodes a batch of token ids with `target_tokenizer.batch_decode`."""
        return self.target_tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """Decodes token ids with `target_tokenizer.decode`."""
        return self.target_tokenizer.decode(*args, **kwargs)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> Any:
        """Decodes generated ids, as transformers' image-text-to-text pipeline requires."""
        return self.decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Does what it does in transformers, also in one of its versions that gives all clips in one list.

        Raises ValueError for several conversations with audio or video at once if a clip could reach another one.
        """
        batched = (
            isinstance(conversation, (list, tuple)) and conversation and isinstance(conversation[0], (list, tuple))
        )
        if kwargs.get("tokenize") and batched and len(conversation) > 1 and not hasattr(ProcessorMixin, CLIPS_METHOD):
            kinds = {block["type"] for messages in conversation for block in iterate_blocks(messages)}
            if kinds & {"audio", "video"}:
                raise ValueError(
                    f"transformers {transformers_version} mixes the clips of several conversations: pass one at a "
                    "time, or install a newer version"
                )
        library: Any = super()
        return library.apply_chat_template(conversation, *args, **kwargs)

    def _multimodal_inputs_from_conversations(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]], *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Collects the images, videos and audio clips of `apply_chat_template`, in one list for each conversation
        (transformers returns all clips in one list, by which a clip could reach another conversation)."""
        library: Any = super()
        images, videos, audio, *rest = library._multimodal_inputs_from_conversations(conversations, *args, **kwargs)
        counts = [sum(block["type"] == "audio" for block in iterate_blocks(messages)) for messages in conversations]
        if sum(counts) != len(audio):
            raise ValueError(f"{sum(counts)} audio blocks in the messages, but {len(audio)} clips: give each one clip")
        clips = iter(audio)
        audio = [[next(clips) for _ in range(count)] for count in counts] if audio else audio
        return images, [row or [None] for row in videos], audio, *rest


def iterate_blocks(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yields the content blocks of a conversation's messages."""
    for message in messages:
        if not isinstance(message.get("content"), str):
            yield from message.get("content") or ()
