"""What a fusion makes of rows that lack one of its modalities, or have another's: does it look at all of them?"""

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import combinations
from typing import Any

import numpy as np

from ..data.media import Row, columns_of, is_numbers

SILENT = 16000  # samples, and a second of them
GREY = (127, 127, 127)


def variations(rows: Sequence[Row], modalities: Sequence[str], seed: int) -> Iterator[tuple[str, list[Row]]]:
    """The test rows with modalities left out, and changed in one modality at a time.

    `only text`, `only text + audio`: all others absent, in every combination (only a text: a blind model).
    `shuffled text`: every row has the text of another row. `blank text`: an input without content in its place: an
    empty text, a grey picture, silence.
    """
    for present in patterns(modalities):
        absent = [name for other in modalities if other not in present for name in columns_of(rows[0], other)]
        yield only(present), [{**row, **dict.fromkeys(absent)} for row in rows]
    for modality in modalities:
        columns = columns_of(rows[0], modality)
        moved = [{name: row[name] for name in columns} for row in shuffled(rows, seed)]
        yield f"shuffled {modality}", [{**row, **other} for row, other in zip(rows, moved, strict=True)]
        yield f"blank {modality}", [{**row, **blank(row, columns, modality)} for row in rows]


def patterns(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every choice of some of these modalities, but not of all: first of one, then of two, ..."""
    return [chosen for size in range(1, len(modalities)) for chosen in combinations(modalities, size)]


def only(present: Sequence[str]) -> str:
    """What a pattern of present modalities is called."""
    return f"only {' + '.join(present)}"


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """Every row in another's place: a random cycle through all."""
    order = np.random.default_rng(seed).permutation(len(rows))
    moved = list(rows)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        moved[place] = rows[source]
    return moved


def blank(row: Row, columns: Sequence[str], modality: str) -> dict[str, Any]:
    """Inputs without content in the place of those that are there; numbers by which inputs are known are left out."""
    return {name: None if name.endswith("_id") else filled(row[name], modality) for name in columns}


def filled(value: Any, modality: str) -> Any:
    """The blank input, as often as there is one."""
    if value is None or isinstance(value, (int, float)):  # absent, or a sampling rate
        return value
    if modality == "video":
        return [grey_picture()] * 2
    if isinstance(value, list) and not is_numbers(value):
        return [BLANKS[modality]() for _ in value]
    return BLANKS[modality]()


def grey_picture() -> dict[str, Any]:
    """A picture file of one colour."""
    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (32, 32), GREY).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def silence() -> dict[str, Any]:
    """A second without sound."""
    return {"array": np.zeros(SILENT, dtype=np.float32), "sampling_rate": SILENT}


BLANKS: dict[str, Callable[[], Any]] = {"text": str, "image": grey_picture, "audio": silence}
