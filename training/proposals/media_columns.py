"""Tells images, audio and videos from other cells by their content: the first bytes of a file, not only its name."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ...configuration.modalities import MEDIA
from ...processing.audio import decode_audio, read_samples
from ...processing.errors import describe_error
from ...processing.images import read_image
from ...processing.video import FrameSampling, read_frames
from ..data.media import READ_ERRORS, find_modality

HEAD_BYTES = 32  # of a file, by which its format is known
SIGNATURES = (  # (format's first bytes, bytes at offset 8 or none, modality)
    (b"\xff\xd8\xff", b"", "image"),
    (b"\x89PNG", b"", "image"),
    (b"GIF8", b"", "image"),
    (b"BM", b"", "image"),
    (b"II*\0", b"", "image"),
    (b"MM\0*", b"", "image"),
    (b"RIFF", b"WEBP", "image"),
    (b"RIFF", b"WAVE", "audio"),
    (b"RIFF", b"AVI ", "video"),
    (b"fLaC", b"", "audio"),
    (b"OggS", b"", "audio"),
    (b"ID3", b"", "audio"),
    (b"\xff\xfb", b"", "audio"),
    (b"\xff\xf3", b"", "audio"),
    (b"\xff\xf2", b"", "audio"),
    (b"FORM", b"AIFF", "audio"),
    (b"\x1aE\xdf\xa3", b"", "video"),
    (b"\0\0\1\xba", b"", "video"),
)
MP4_AUDIO, MP4_IMAGE = (b"M4A ", b"M4B "), (b"avif", b"heic", b"mif1")
URL = re.compile(r"https?://\S+")
FEW_FRAMES = FrameSampling(2)


class MediaFacts(NamedTuple):
    """What a sample of a column's files is like.

    kind: image, audio or video; size: the median of the longer side in pixels, or of the length in seconds; unreadable:
    how many of `sampled` items cannot be read, and why the first cannot.
    """

    kind: str
    size: float
    sampled: int
    unreadable: int
    problem: str

    def describe(self) -> str:
        """Returns what the table says of the column."""
        unit = "s" if self.kind == "audio" else " px"
        length = f"{self.size:.1f}" if self.kind == "audio" else f"{self.size:.0f}"
        return f"{self.kind}, {length}{unit}" if self.unreadable < self.sampled else self.kind


def find_format(head: bytes) -> str | None:
    """Returns the modality of a file by its first bytes; None for an unknown format."""
    if head[4:8] == b"ftyp":
        return "audio" if head[8:12] in MP4_AUDIO else "image" if head[8:12] in MP4_IMAGE else "video"
    return next(
        (kind for first, later, kind in SIGNATURES if head.startswith(first) and head[8 : 8 + len(later)] == later),
        None,
    )


def find_cell_modality(cell: Any, root: Path) -> str | None:
    """Returns the modality of a cell: bytes, a path relative to `root` of a file that exists, {"bytes", "path"},
    {"array", "sampling_rate"}, or a list of these; None for any other."""
    if isinstance(cell, (list, tuple)):
        return find_cell_modality(cell[0], root) if cell else None
    if isinstance(cell, Mapping):
        if cell.get("array") is not None and "sampling_rate" in cell:
            return "audio"
        return find_cell_modality(cell.get("bytes") or cell.get("path"), root)
    if isinstance(cell, bytes):
        return find_format(cell[:HEAD_BYTES])
    if isinstance(cell, str) and len(cell) < 1024 and "\n" not in cell and "\0" not in cell:
        path = root / cell
        try:
            with path.open("rb") as file:
                return find_format(file.read(HEAD_BYTES)) or find_modality(path)
        except OSError:
            return None
    return None


def find_named_modality(cells: Sequence[Any]) -> str | None:
    """Returns the modality that nearly all names have by their suffix, whether or not there are such files."""
    found = Counter(find_modality(cell) for cell in cells if isinstance(cell, str))
    kind, count = found.most_common(1)[0] if found else (None, 0)
    return kind if kind in MEDIA and count >= 0.9 * len(cells) else None


def measure_media(cells: Sequence[Any], kind: str, root: Path) -> MediaFacts:
    """Reads a sample of cells of one modality: their size, and how many cannot be read."""
    sizes, problems = [], []
    for cell in cells:
        try:
            sizes.append(measure_item(find_first_item(cell, kind, root), kind))
        except (*READ_ERRORS, ImportError) as error:
            problems.append(" ".join(describe_error(error).split()) if isinstance(error, READ_ERRORS) else str(error))
    problem = problems[0] if problems else ""
    return MediaFacts(kind, float(median(sizes)) if sizes else 0.0, len(cells), len(problems), problem)


def find_first_item(cell: Any, kind: str, root: Path) -> Any:
    """Returns the first image or clip of a cell, paths with their folder; of a video all frames."""
    if isinstance(cell, (list, tuple)):
        return (
            [find_first_item(frame, "image", root) for frame in cell]
            if kind == "video"
            else (find_first_item(cell[0], kind, root) if cell and not isinstance(cell[0], (int, float)) else cell)
        )
    return str(root / cell) if isinstance(cell, str) else cell


def measure_item(item: Any, kind: str) -> float:
    """Returns the longer side of an image or of the first frame in pixels, or the length of a clip in seconds.

    Raises OSError, TypeError or ValueError for an item that cannot be read, ImportError without the package to read it.
    """
    if kind == "image":
        return float(max(read_image(item).size))
    if kind == "video":
        return float(max(read_image(read_frames(item, FEW_FRAMES, None)[0]).size))
    if isinstance(item, bytes):
        samples, rate = decode_audio(item)
        return len(samples) / rate
    samples, rate = read_samples(item, None)
    return np.asarray(samples).shape[0] / (rate or 16_000)
