"""The settings of a served model: where it listens, and what one request may ask for."""

from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

from ...processing.limits import CEILINGS
from ..recipes.errors import RecipeError

MEGABYTE = 2**20


class ServedRange(NamedTuple):
    """The lowest and the highest value of a setting."""

    lowest: int
    highest: int


RANGES = {
    "port": ServedRange(0, 65535),
    "max_file_megabytes": ServedRange(1, 2**20),
    "max_characters": ServedRange(1, 2**40),
    "batch_size": ServedRange(1, 4096),
    "max_new_tokens": ServedRange(1, 2**20),
    "max_pixels": ServedRange(1, 2**40),
    "max_candidates": ServedRange(1, 2**20),
}


@dataclass(frozen=True)
class ServeSettings:
    """What `plait serve` is asked for.

    Attributes:
        host: the address to listen on; the default is reached from this machine alone.
        port: 0 .. 65535; None: the first free one from 7860 on.
        share: also give the page a public address through Gradio's servers, for 72 hours.
        api: also serve the answers as JSON, under named endpoints.
        max_file_megabytes: of one uploaded file (1 MB is 2**20 bytes).
        max_characters: of one text.
        batch_size: requests that are answered in one forward at most.
        max_new_tokens: of a generated text at most.
        max_pixels: of a generated image at most.
        max_candidates: files of one search at most.
        index: a folder or a table that a retrieval model searches, as in `plait search`.
        index_folder: where its index lies; None: beside it.

    Raises RecipeError for a number out of its range.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    api: bool = False
    max_file_megabytes: int = 100
    max_characters: int = 100_000
    batch_size: int = 16
    max_new_tokens: int = 512
    max_pixels: int = 1024 * 1024
    max_candidates: int = 10_000
    index: str | None = None
    index_folder: str | None = None

    def __post_init__(self) -> None:
        for name, (lowest, highest) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise RecipeError(f"--{name.replace('_', '-')} is {value}: expected {lowest} .. {highest}")

    @property
    def file_bytes(self) -> int:
        """The largest file in bytes: the setting's, or that of PLAIT_LIMITS if it is lower."""
        return min(self.max_file_megabytes * MEGABYTE, CEILINGS["file_bytes"].highest)

    @property
    def text_characters(self) -> int:
        """The longest text in characters: the setting's, or that of PLAIT_LIMITS if it is lower."""
        return min(self.max_characters, CEILINGS["text_characters"].highest)


def require_gradio() -> ModuleType:
    """Returns gradio. Raises RecipeError where it is not installed, or is too old."""
    try:
        import gradio
    except ImportError as error:
        raise RecipeError(f"a page needs gradio ({error}): pip install 'plait[serve]'") from error
    if int(gradio.__version__.partition(".")[0]) < 6:
        raise RecipeError(f"a page needs gradio 6, and {gradio.__version__} is installed: pip install 'plait[serve]'")
    return gradio
