"""The range of every number that a processor takes: a number outside it is a mistake, found before anything is read."""

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
