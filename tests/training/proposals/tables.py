"""Made tables of every kind, small enough for one core."""

import csv
import io
import math
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

SUBJECTS = ("the old clock", "my new phone", "this long film", "a warm soup", "their small shop", "our last train")
MOODS = {
    "good": ("works so well", "is a real joy", "was worth it"),
    "bad": ("broke at once", "is a sad joke", "was too dear"),
}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}


def review(number: int) -> tuple[str, str]:
    """A text of its own, and its mood."""
    mood = ("good", "bad")[number % 2]
    return f"{SUBJECTS[number // 3 % 6]} {MOODS[mood][number // 2 % 3]} on day {number}", mood


def reviews(count: int = 60) -> list[dict[str, Any]]:
    """Texts of two moods with an id, a constant, a time and a category."""
    rows = []
    for number in range(count):
        text, mood = review(number)
        row = {
            "id": number,
            "shop": "here",
            "when": f"2026-01-{number % 28 + 1:02d}",
            "city": ("Rome", "Oslo")[number % 2],
        }
        rows.append({**row, "body": text, "mood": mood})
    return rows


def picture(colour: tuple[int, ...], size: int = 24) -> bytes:
    """A square as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def sound(pitch: float, seconds: float = 0.2, rate: int = 8000) -> bytes:
    """A tone as the bytes of a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        samples = (int(8000 * math.sin(2 * math.pi * pitch * at / rate)) for at in range(int(seconds * rate)))
        file.writeframes(b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples))
    return buffer.getvalue()


def class_folder(folder: Path, suffix: str, contents: Mapping[str, Sequence[bytes]]) -> Path:
    """A folder with a folder of files for each class."""
    for name, items in contents.items():
        (folder / name).mkdir(parents=True)
        for number, item in enumerate(items):
            (folder / name / f"{number}{suffix}").write_bytes(item)
    return folder


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as a csv file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
