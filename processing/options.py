"""Sorts the options of a processor's call by the part that takes them, and rejects unknown options."""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from ..configuration.messages import suggest
from .limits import check_numbers
from .parts import ProcessorParts

TEXT_OPTIONS = frozenset(
    "add_special_tokens padding truncation max_length pad_to_multiple_of padding_side return_token_type_ids "
    "return_special_tokens_mask return_offsets_mapping return_text_replacement_offsets verbose "
    "sanitize_control_tokens".split()
)
SAMPLING_OPTIONS = frozenset(("num_frames", "fps", "do_sample_frames"))
# options that would change the format of the output, or that the processor passes itself
RESERVED_OPTIONS = frozenset(
    "return_tensors data_format device disable_grouping sampling_rate self args kwargs".split()
)
COMMON_OPTIONS = "common_kwargs"
CALL_NAMES = ("return_tensors", "text_pair", "text_target", "sampling_rate", "video_fps")
# arguments of the processor's call that may stand in the dict of their part instead
CALL_ARGUMENTS = {
    "text_kwargs": frozenset(("return_tensors", "text_pair", "text_target")),
    "images_kwargs": frozenset(("return_tensors",)),
    "audio_kwargs": frozenset(("return_tensors", "sampling_rate")),
    "videos_kwargs": frozenset(("return_tensors", "video_fps")),
    COMMON_OPTIONS: frozenset(("return_tensors",)),
}


class ProcessorOptions(NamedTuple):
    """The options of the tokenizer's, the image processor's, the feature extractor's and the frame processor's calls,
    and the arguments of the processor's call that stood in their dicts."""

    text: dict[str, Any]
    images: dict[str, Any]
    audio: dict[str, Any]
    videos: dict[str, Any]
    call: dict[str, Any]


def split_options(processor: ProcessorParts, kwargs: Mapping[str, Any], call: Mapping[str, Any]) -> ProcessorOptions:
    """Sorts options, given flat or in `text_kwargs`, `images_kwargs`, `audio_kwargs`, `videos_kwargs` and
    `common_kwargs`, by the part that takes them.

    A flat or common option reaches every part that knows it, but a flat one that the tokenizer knows (`padding`) the
    tokenizer alone. Common options give way to all others.

    call: the arguments of the processor's call, by name, that were given or not (None).

    Raises:
        TypeError: an unknown option.
        ValueError: an option that is given twice, or a number outside `LIMITS`.
    """
    arguments = {name: value for name, value in call.items() if value is not None}
    if not kwargs:
        return ProcessorOptions({}, {}, {}, {}, arguments)
    known = find_option_names(processor)
    flat = {name: value for name, value in kwargs.items() if name not in CALL_ARGUMENTS}
    groups = {group: dict(kwargs.get(group) or {}) for group in CALL_ARGUMENTS}
    for group, names in CALL_ARGUMENTS.items():
        for name in names & groups[group].keys():
            value = groups[group].pop(name)
            if name in arguments and group != COMMON_OPTIONS:
                raise build_twice_error(name, group)
            arguments.setdefault(name, value)
    common = groups.pop(COMMON_OPTIONS)
    every = frozenset().union(*known.values()) if flat or common else frozenset()
    check_option_names(common, every, COMMON_OPTIONS)
    check_option_names(flat, every, "a PlaitProcessor's call")
    text, images, audio, videos = (
        select_options(flat, common, groups[group], names, group, owner=known["text_kwargs"])
        for group, names in known.items()
    )
    check_numbers(text)
    check_numbers(audio)
    return ProcessorOptions(text, images, audio, videos, arguments)


def find_option_names(processor: ProcessorParts) -> dict[str, frozenset[str]]:
    """Returns the names of the options of each part's call, by the name of its dict; none for an absent part."""
    text = TEXT_OPTIONS if processor.find_part("tokenizer") is not None else frozenset()
    image, extractor = (processor.find_part(name) for name in ("image_processor", "feature_extractor"))
    frames = processor.find_part("frame_processor") or image
    return {
        "text_kwargs": text,
        "images_kwargs": frozenset() if image is None else find_image_options(type(image)),
        "audio_kwargs": frozenset() if extractor is None else find_audio_options(type(extractor)),
        "videos_kwargs": frozenset() if frames is None else find_image_options(type(frames)) | SAMPLING_OPTIONS,
    }


@cache
def find_image_options(processor_class: Any) -> frozenset[str]:
    """Returns the names of the options of an image processor's call."""
    return frozenset(processor_class.valid_kwargs.__annotations__) - RESERVED_OPTIONS


@cache
def find_audio_options(extractor_class: Any) -> frozenset[str]:
    """Returns the names of the options of a feature extractor's call, which differ between families."""
    _, _, *names = inspect.signature(extractor_class.__call__).parameters
    return frozenset(names) - RESERVED_OPTIONS


def select_options(
    flat: Mapping[str, Any],
    common: Mapping[str, Any],
    grouped: Mapping[str, Any],
    names: frozenset[str],
    group: str,
    owner: frozenset[str],
) -> dict[str, Any]:
    """Returns the options of one part, flat, common or in its dict. owner: the names that belong to the tokenizer when
    they are flat."""
    check_option_names(grouped, names, group)
    own = names if group == "text_kwargs" else names - owner
    for name in grouped:
        if name in flat and name in own:
            raise build_twice_error(name, group)
    shared = {name: value for name, value in common.items() if name in names}
    return shared | {name: value for name, value in flat.items() if name in own} | dict(grouped)


def check_option_names(options: Mapping[str, Any], names: frozenset[str], where: str) -> None:
    """Raises TypeError for an unknown option, with the nearest known one."""
    for name in options:
        if name not in names:
            raise TypeError(f"{where} has no option {name!r}{suggest(name, sorted(names))}")


def build_twice_error(name: str, group: str) -> ValueError:
    """Builds the error for an option that is given twice."""
    return ValueError(f"the option {name!r} is given twice, flat and in {group}: drop one of them")
