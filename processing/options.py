"""Sorts the options of a processor's call by the part that takes them, and rejects unknown options."""

import inspect
from collections.abc import Set
from typing import Any, NamedTuple

from transformers import BaseImageProcessor, SequenceFeatureExtractor

from ..configuration.messages import suggest
from .limits import check_numbers

TEXT_OPTIONS = frozenset(
    "add_special_tokens padding truncation max_length pad_to_multiple_of padding_side return_token_type_ids "
    "return_special_tokens_mask return_offsets_mapping return_text_replacement_offsets verbose".split()
)
# options that would change the format of the output, or that the processor passes itself
RESERVED_OPTIONS = frozenset(
    "return_tensors data_format device disable_grouping sampling_rate self args kwargs".split()
)


class ProcessorOptions(NamedTuple):
    """The options of the tokenizer's, the image processor's and the feature extractor's calls."""

    text: dict[str, Any]
    images: dict[str, Any]
    audio: dict[str, Any]


def split_options(
    kwargs: dict[str, Any], image_processor: BaseImageProcessor | None, extractor: SequenceFeatureExtractor | None
) -> ProcessorOptions:
    """Sorts options, given flat or in `text_kwargs`, `images_kwargs` and `audio_kwargs`, by the part that takes them.

    A flat option that several parts know (`padding`) goes to the tokenizer.
    Raises TypeError for an unknown option, or one that is given twice; ValueError for a number outside `LIMITS`.
    """
    kwargs = dict(kwargs)
    image_names: set[str] = set()
    if image_processor is not None:
        image_names = set(image_processor.valid_kwargs.__annotations__) - RESERVED_OPTIONS
    audio_names = set() if extractor is None else find_audio_options(extractor)
    text = select_options(kwargs, "text_kwargs", TEXT_OPTIONS, TEXT_OPTIONS)
    images = select_options(kwargs, "images_kwargs", image_names, image_names)
    flat = audio_names - TEXT_OPTIONS - image_names
    audio = select_options(kwargs, "audio_kwargs", audio_names, flat)
    for name in kwargs:
        if not any(name in names for names in (TEXT_OPTIONS, image_names, flat)):
            raise build_unknown_option_error(name, {*TEXT_OPTIONS, *image_names, *flat})
    check_numbers(text)
    check_numbers(audio)
    return ProcessorOptions(text, images, audio)


def find_audio_options(extractor: Any) -> set[str]:
    """Returns the names of the options of a feature extractor's call, which differ between families."""
    _, *names = inspect.signature(extractor).parameters
    return set(names) - RESERVED_OPTIONS


def select_options(kwargs: dict[str, Any], group: str, names: Set[str], flat_names: Set[str]) -> dict[str, Any]:
    """Returns the options of one part, flat or in its group, and removes the group from `kwargs`."""
    grouped = kwargs.pop(group, None) or {}
    flat = {name: value for name, value in kwargs.items() if name in flat_names}
    for name in grouped:
        if name not in names:
            raise build_unknown_option_error(name, names, group)
        if name in flat:
            raise TypeError(f"the option {name!r} is given twice, flat and in {group}: drop one of them")
    return flat | grouped


def build_unknown_option_error(name: str, names: Set[str], group: str = "a PlaitProcessor's call") -> TypeError:
    """Returns the error about an unknown option, with the nearest valid one."""
    return TypeError(f"{group} has no option {name!r}{suggest(name, sorted(names))}")
