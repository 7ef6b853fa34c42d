"""The range of every number that a processor takes: a number outside it is a mistake, found before anything is read."""

import os
from collections.abc import Sequence
from math import prod
from numbers import Integral, Real
from typing import Any, NamedTuple, cast


class Limits(NamedTuple):
    """The lowest and highest value of a number, what it counts, and whether it is a whole number."""

    lowest: float
    highest: float
    unit: str
    whole: bool = False


LIMITS = {
    "sampling_rate": Limits(100, 10_000_000, "samples per second (Hz), such as 16000"),
    "video_fps": Limits(1e-6, 10_000, "frames per second, such as 25"),
    "fps": Limits(1e-6, 10_000, "frames per second, such as 1"),
    "num_frames": Limits(1, 100_000, "the number of frames, such as 8", whole=True),
    "num_image_tokens": Limits(1, 1_000_000, "the number of tokens of one image", whole=True),
    "num_images": Limits(0, 1_000_000, "the number of images of a row", whole=True),
    "max_target_length": Limits(1, 2**60, "the largest number of tokens, with the end token", whole=True),
    "max_length": Limits(1, 2**60, "the largest number of tokens", whole=True),
    "pad_to_multiple_of": Limits(1, 1_000_000, "a number of tokens", whole=True),
}


def check_number(name: str, value: Any) -> None:
    """Raises ValueError for a value that is no number, or outside its `LIMITS`; None is no value."""
    limits = LIMITS[name]
    number: Any = value.item() if getattr(value, "ndim", None) == 0 else value  # of an array or a tensor
    known = isinstance(number, Integral if limits.whole else Real) and not isinstance(number, bool)
    if value is None or (known and limits.lowest <= cast("Any", number) <= limits.highest):  # never true of nan
        return
    kind = "a whole number" if limits.whole else "a number"
    raise ValueError(f"{name} is {value!r}: pass {limits.unit}, {kind} from {limits.lowest:g} to {limits.highest:g}")


def check_numbers(options: dict[str, Any]) -> None:
    """Checks the options that have limits, such as those of a part's call."""
    for name in options.keys() & LIMITS.keys():
        check_number(name, options[name])


class Ceiling(NamedTuple):
    """The largest amount of something that an input may ask for, and what it counts."""

    highest: int
    unit: str


# what one input may ask for, above which it is a mistake or an attack; PLAIT_LIMITS changes them (docs/bad_input.md)
CEILINGS = {
    "file_bytes": Ceiling(2**32, "bytes of a file"),
    "image_pixels": Ceiling(89_478_485, "pixels of an image"),  # of which Pillow warns
    "audio_samples": Ceiling(2**30, "samples of a clip, of all channels together"),
    "video_pixels": Ceiling(2**30, "pixels of the frames of a video"),
    "video_frames": Ceiling(1_000_000, "frames of a video file"),
    "text_characters": Ceiling(4_000_000, "characters of a text"),
    "batch_tokens": Ceiling(2**24, "tokens of a batch"),
    "batch_bytes": Ceiling(2**34, "bytes of the inputs of a batch"),
}
VARIABLE = "PLAIT_LIMITS"


def read_changes(text: str) -> dict[str, Ceiling]:
    """Returns the ceilings that a text changes, `name=number,name=number`.

    Raises ValueError for an unknown name, or a value that is no whole number above 0.
    """
    found = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = part.partition("=")
        digits = value.strip().replace("_", "")
        if name.strip() not in CEILINGS or not digits.isdigit() or not int(digits):
            raise ValueError(f"{VARIABLE} has {part!r}: write NAME=NUMBER, NAME one of {', '.join(CEILINGS)}")
        found[name.strip()] = CEILINGS[name.strip()]._replace(highest=int(digits))
    return found


CEILINGS |= read_changes(os.environ.get(VARIABLE, ""))


def check_ceiling(name: str, amount: float, what: str) -> None:
    """Raises ValueError for an amount above its ceiling; `what` says what asks for it."""
    highest, unit = CEILINGS[name]
    if not amount <= highest:  # also true of nan
        raise ValueError(
            f"{what} asks for {amount:,.0f} {unit}, more than {highest:,}: make it smaller, or raise the limit by the "
            f"environment variable {VARIABLE}={name}=NUMBER"
        )


def check_batch(shape: Sequence[int], what: str) -> None:
    """Raises ValueError for inputs of a batch, of 4 bytes each, that would not fit into memory."""
    check_ceiling("batch_bytes", 4 * prod(map(int, shape)), f"{what}: a batch of shape {tuple(map(int, shape))}")
