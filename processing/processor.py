"""One processor for any mix of modalities: a tokenizer and an image processor, either of which may be missing."""

from collections.abc import Callable
from difflib import get_close_matches
from os import PathLike, fspath
from typing import Any, Self

from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from .images import picture_rows, pixel_arrays
from .sources import (
    Checkpoint,
    ImageSource,
    TextSource,
    find_image_processor,
    find_tokenizer,
    image_processor_of,
    tokenizer_of,
)
from .text import encode, first_cut, pair_rows, text_rows, with_pad_token

logger = logging.get_logger(__name__)

TEXT_OPTIONS = frozenset(
    "add_special_tokens padding truncation max_length pad_to_multiple_of padding_side return_token_type_ids "
    "return_special_tokens_mask return_offsets_mapping verbose".split()
)
# an image processor's options that would change the form of what comes out
FORM_OPTIONS = frozenset("return_tensors data_format device disable_grouping".split())
PARTS = {"image_processor": "image", "tokenizer": "text"}  # and the argument of `compose` that brings it


class PresentParts:
    """`ProcessorMixin.get_attributes`, which saving asks: all parts on the class, those that it has on a processor."""

    def __get__(self, processor: "PlaitProcessor | None", owner: type) -> Callable[[], list[str]]:
        return lambda: [name for name in PARTS if processor is None or getattr(processor, name) is not None]


class PlaitProcessor(ProcessorMixin):
    """Texts and pictures to the tensors a plait reads.

    A processor has a tokenizer, an image processor, or both. A tokenizer without a pad token is copied and pads with
    its end-of-sequence token. Texts are cut at `tokenizer.model_max_length`, at which the first cut is warned about.

    Raises:
        ValueError: neither part, or a tokenizer with neither a pad nor an end-of-sequence token.
    """

    image_processor: BaseImageProcessor | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    get_attributes = PresentParts()  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        if image_processor is None and tokenizer is None:
            raise ValueError("a PlaitProcessor needs a tokenizer, an image processor, or both")
        if tokenizer is not None:
            tokenizer = with_pad_token(tokenizer)
            chat_template = chat_template or tokenizer.chat_template
        parts = {"image_processor": image_processor, "tokenizer": tokenizer}
        parts = {name: part for name, part in parts.items() if part is not None}
        vars(self).update(parts)
        super().__init__(**parts, chat_template=chat_template)
        self.cut_was_reported = False

    @classmethod
    def compose(
        cls,
        text: TextSource | None = None,
        image: ImageSource | None = None,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool | None = None,
    ) -> Self:
        """The processor for towers that `PlaitModel.compose` takes by the same arguments.

        Args:
            text: a Hub id or folder with a tokenizer, a ready tokenizer, or a model that was loaded from one.
                `model_max_length` becomes the tower's number of positions where that is smaller.
            image: a Hub id or folder with a `preprocessor_config.json`, a ready image processor, a config or a model.
                A config, or a folder without that file, gives a default: resized to `image_size`, values in -1..1.
            revision, subfolder, token, cache_dir, local_files_only: as in `from_pretrained`.

        Raises:
            ValueError: no tokenizer or image processor there.
        """
        options = {
            "revision": revision,
            "subfolder": subfolder,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        }
        options = {name: value for name, value in options.items() if value is not None}
        return cls(
            image_processor=None if image is None else image_processor_of(image, options),
            tokenizer=None if text is None else tokenizer_of(text, options),
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """Load what `save_pretrained` wrote, or the parts that any published checkpoint has.

        `kwargs` are the loading options, and options of the parts (`padding_side="left"`, `do_resize=False`).

        Raises:
            OSError: no such checkpoint, or it has neither a tokenizer nor an image processor.
        """
        checkpoint = Checkpoint(fspath(pretrained_model_name_or_path), kwargs)
        parts = {"image_processor": find_image_processor(checkpoint), "tokenizer": find_tokenizer(checkpoint)}
        if all(part is None for part in parts.values()):
            raise OSError(
                f"{checkpoint} has neither a tokenizer nor an image processor; make one with "
                "PlaitProcessor.compose(text=..., image=...) and save it there"
            )
        fields, _ = cls.get_processor_dict(checkpoint.name, **checkpoint.hub_options)
        return cls(**parts, chat_template=fields.get("chat_template"))

    def __call__(
        self,
        text: Any = None,
        images: Any = None,
        text_pair: Any = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a batch.

        Args:
            text: a string (one row) or a list with a string or None (no text) for every row.
            images: a picture (one row) or a list with a picture, None (no picture) or a list of pictures for every row.
                A picture is a Pillow picture, an array or tensor (uint8 in 0..255 or floats in 0..1), a path, the bytes
                of a file or `datasets`' {"bytes", "path"}; see `read_picture` for colours, depth and orientation.
            text_pair: second texts, as `text`.
            return_tensors: "pt" or "np"; None leaves nested lists of ids and arrays of pictures.
            kwargs: options of the tokenizer's and the image processor's call, flat or in the dicts `text_kwargs` and
                `images_kwargs`. Without any, texts are padded to the longest and cut at `tokenizer.model_max_length`.

        Returns:
            `input_ids`, `attention_mask` (all 0 in a row without a text or tokens) and, where the tokenizer makes them,
            `token_type_ids`, each (batch, length); `pixel_values` (batch, images, channels, height, width), zeros
            where there is no picture, and `image_present` (batch, images) bool. A row with neither is left to the
            model, which refuses it unless another input stands in.

        Raises:
            TypeError: a row that is neither a text nor a picture, an unknown option.
            ValueError: a picture that cannot be read, different numbers of rows, a missing part.
            FileNotFoundError: no file at a picture's path.
        """
        text_options, image_options = self._options(kwargs)
        texts = None if text is None else text_rows(text)
        pictures = None if images is None else picture_rows(images)
        check_rows(texts, pictures, text_pair)
        values = {} if texts is None else self._encode(texts, text_pair, text_options)
        if pictures is not None:
            values |= pixel_arrays(self._part("image_processor", "images"), pictures, image_options)
        return BatchFeature(values, tensor_type=return_tensors)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """`tokenizer.batch_decode`."""
        return self._part("tokenizer", "token ids").batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """`tokenizer.decode`."""
        return self._part("tokenizer", "token ids").decode(*args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns."""
        return [*super().model_input_names, *(["image_present"] if self.image_processor is not None else [])]

    def _part(self, name: str, what: str) -> Any:
        """The tokenizer or the image processor that reads something."""
        part = getattr(self, name)
        if part is None:
            raise ValueError(
                f"this processor has no {name}, so it cannot read {what}; compose it with one: "
                f"PlaitProcessor.compose({PARTS[name]}=...)"
            )
        return part

    def _encode(self, texts: list[str | None], text_pair: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Ids and masks; the first text that is cut without having been asked for is warned about."""
        tokenizer = self._part("tokenizer", "text")
        pairs = pair_rows(texts, text_pair)
        values = encode(tokenizer, texts, pairs, options)
        if not self.cut_was_reported and not {"truncation", "max_length"} & options.keys():
            row = first_cut(tokenizer, texts, pairs, values)
            if row is not None:
                self.cut_was_reported = True
                logger.warning(
                    f"text, row {row}: longer than the {tokenizer.model_max_length} tokens that the model can place, "
                    "and cut there; so will others be, without a further warning (max_length=... sets another limit)"
                )
        return values

    def _options(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of the tokenizer's call and of the image processor's."""
        for name in ("videos", "audio"):  # transformers' chat templates always pass them
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"this processor has no part that reads {name}")
        image_names: set[str] = set()
        if self.image_processor is not None:
            image_names = set(self.image_processor.valid_kwargs.__annotations__) - FORM_OPTIONS
        text = chosen(kwargs, "text_kwargs", TEXT_OPTIONS)
        images = chosen(kwargs, "images_kwargs", image_names)
        for name in kwargs:
            if name not in text and name not in images:
                raise unknown(name, {*TEXT_OPTIONS, *image_names})
        return text, images


def check_rows(texts: list[str | None] | None, pictures: list[list[Any]] | None, text_pair: Any) -> None:
    """Texts and pictures are of the same rows."""
    if texts is None and pictures is None:
        raise ValueError("pass text, images, or both")
    if texts is None and text_pair is not None:
        raise ValueError("text_pair was passed without text")
    if texts is not None and pictures is not None and len(texts) != len(pictures):
        raise ValueError(
            f"text has {len(texts)} rows, images has {len(pictures)}: pass one entry a row (None for a row without "
            "one; several pictures of one row are a list within the list, [[a, b], [c]])"
        )


def chosen(kwargs: dict[str, Any], group: str, names: set[str] | frozenset[str]) -> dict[str, Any]:
    """The options of one part, given flat or in its group."""
    grouped = kwargs.pop(group, None) or {}
    flat = {name: value for name, value in kwargs.items() if name in names}
    for name in grouped:
        if name not in names:
            raise unknown(name, names, group)
        if name in flat:
            raise TypeError(f"the option {name!r} is given twice, flat and in {group}")
    return flat | grouped


def unknown(name: str, names: set[str] | frozenset[str], group: str = "a PlaitProcessor's call") -> TypeError:
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}"
    return TypeError(f"{group} has no option {name!r}; {hint}")
