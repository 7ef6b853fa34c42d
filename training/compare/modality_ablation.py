"""What a fusion makes of rows that lack one of its modalities, or have another's: does it look at all of them?"""

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from ..data.media import Row, find_columns, is_numbers
from ..trainer.modality_patterns import list_modality_patterns

SILENCE_SAMPLES = 16000  # samples, and a second of them
GREY_PIXEL = (127, 127, 127)


def generate_variations(rows: Sequence[Row], modalities: Sequence[str], seed: int) -> Iterator[tuple[str, list[Row]]]:
    """The test rows with modalities left out, and changed in one modality at a time.

    `only text`, `only text + audio`: all others absent, in every combination (only a text: a blind model).
    `shuffled text`: every row has the text of another row. `blank text`: an input without content in its place: an
    empty text, a grey picture, silence.
    """
    for present in list_modality_patterns(modalities):
        absent = [name for other in modalities if other not in present for name in find_columns(rows[0], other)]
        yield format_present(present), [{**row, **dict.fromkeys(absent)} for row in rows]
    for modality in modalities:
        columns = find_columns(rows[0], modality)
        moved = [{name: row[name] for name in columns} for row in shuffle_rows(rows, seed)]
        yield f"shuffled {modality}", [{**row, **other} for row, other in zip(rows, moved, strict=True)]
        yield f"blank {modality}", [{**row, **build_blank_columns(row, columns, modality)} for row in rows]


def format_present(present: Sequence[str]) -> str:
    """What a pattern of present modalities is called."""
    return f"only {' + '.join(present)}"


def shuffle_rows(rows: Sequence[Row], seed: int) -> list[Row]:
    """Every row in another's place: a random cycle through all."""
    order = np.random.default_rng(seed).permutation(len(rows))
    moved = list(rows)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        moved[place] = rows[source]
    return moved


def build_blank_columns(row: Row, columns: Sequence[str], modality: str) -> dict[str, Any]:
    """Inputs without content in the place of those that are there; numbers by which inputs are known are left out."""
    return {name: None if name.endswith("_id") else build_blank_value(row[name], modality) for name in columns}


def build_blank_value(value: Any, modality: str) -> Any:
    """The blank input, as often as there is one."""
    if value is None or isinstance(value, (int, float)):  # absent, or a sampling rate
        return value
    if modality == "video":
        return [build_grey_image()] * 2
    if isinstance(value, list) and not is_numbers(value):
        return [BLANK_BUILDERS[modality]() for _ in value]
    return BLANK_BUILDERS[modality]()


def build_grey_image() -> dict[str, Any]:
    """A picture file of one colour."""
    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (32, 32), GREY_PIXEL).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def build_silence() -> dict[str, Any]:
    """A second without sound."""
    return {"array": np.zeros(SILENCE_SAMPLES, dtype=np.float32), "sampling_rate": SILENCE_SAMPLES}


BLANK_BUILDERS: dict[str, Callable[[], Any]] = {"text": str, "image": build_grey_image, "audio": build_silence}
