"""The inputs of a row as a page can hold them: texts, thumbnails, and players of short clips, as data URLs."""

import wave
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...configuration.messages import to_one_line
from ...configuration.modalities import MEDIA
from ...processing.images import read_image
from ..data.identity import read_content
from ..data.media import READ_ERRORS, TARGET_IMAGE, Row, find_columns, list_present

LONGER_SIDE = 176  # pixels of the longer side at most
MOST_CHARACTERS = 600  # of a text
MOST_CLIP_BYTES = 400_000  # of a file that is put on the page
MOST_SECONDS = 15  # of decoded samples
TYPES = {".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac", ".ogg": "audio/ogg", ".m4a": "audio/mp4"}
TYPES |= {".mp4": "video/mp4", ".webm": "video/webm"}


def show_inputs(row: Row, columns: Sequence[str]) -> list[dict[str, str]]:
    """Returns what can be shown of the row's inputs: for each a `name` and one of `text`, `image`, `audio`, `video`
    (data URLs) or `note`."""
    media = {name: kind for kind in (*MEDIA, TARGET_IMAGE) for name in find_media_columns(columns, kind)}
    shown: list[dict[str, str]] = []
    for name in columns:
        value = row.get(name)
        if name in media or value is None:
            continue
        shown.append({"name": name, "text": cut_text(format_text(value))})
    for kind in dict.fromkeys(media.values()):
        for number, value in enumerate(list_present(row, kind)):
            shown.append({"name": kind if not number else f"{kind} {number + 1}", **show_item(kind, value)})
    return shown


def find_media_columns(columns: Sequence[str], kind: str) -> list[str]:
    """Returns the columns that hold items of a modality, or the target image."""
    if kind == TARGET_IMAGE:
        return [name for name in columns if name == TARGET_IMAGE]
    return [name for name in find_columns(columns, kind) if name != f"{kind}_id"]


def format_text(value: Any) -> str:
    """Returns a cell as text; of a conversation each turn on a line."""
    if isinstance(value, list):
        return "\n".join(format_text(item) for item in value)
    if isinstance(value, Mapping):
        return f"{value.get('role', '')}: {value.get('content', '')}" if "role" in value else str(dict(value))
    return str(value)


def cut_text(text: str) -> str:
    """Returns the beginning of a long text, with what was left out."""
    left = len(text) - MOST_CHARACTERS
    return text if left <= 0 else f"{text[:MOST_CHARACTERS]}… ({left:,} characters more)"


def show_item(kind: str, value: Any) -> dict[str, str]:
    """Returns an item as a data URL, or a note why it is not shown."""
    try:
        if kind in ("image", TARGET_IMAGE):
            return {"image": make_thumbnail(value)}
        if kind == "video" and isinstance(value, (list, tuple)):
            return {"image": make_thumbnail(value[len(value) // 2])}
        return show_clip(kind, value)
    except READ_ERRORS as error:
        return {"note": f"cannot be shown: {to_one_line(error)}"}


def make_thumbnail(value: Any) -> str:
    """Returns an image of at most LONGER_SIDE pixels as a data URL."""
    image = read_image(value)
    small = max(image.size) <= LONGER_SIDE // 2
    if small:  # whole multiples keep the pixels as they are
        factor = LONGER_SIDE // 2 // max(image.size) or 1
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((LONGER_SIDE, LONGER_SIDE))
    file = BytesIO()
    image.convert("RGB").save(file, "PNG" if small else "JPEG", **({} if small else {"quality": 82}))
    return to_url(file.getvalue(), "image/png" if small else "image/jpeg")


def show_clip(kind: str, value: Any) -> dict[str, str]:
    """Returns a clip's file, or its samples as a WAV file of at most MOST_SECONDS."""
    if isinstance(value, Mapping) and value.get("array") is not None:
        if kind == "audio" and value.get("sampling_rate"):
            return {"audio": to_url(write_wave(np.asarray(value["array"]), int(value["sampling_rate"])), "audio/wav")}
        return {"note": "decoded samples, which are not shown"}
    content = read_content(value)
    if not isinstance(content, Mapping) or not content.get("bytes"):
        return {"note": "not shown"}
    name, data = Path(str(content.get("path") or "clip.wav")), content["bytes"]
    mime = TYPES.get(name.suffix.lower(), "")
    if len(data) > MOST_CLIP_BYTES or not mime.startswith(kind):
        return {"note": f"{name.name}, {len(data) / 1e6:.1f} MB: too large for this page, or of another format"}
    return {kind: to_url(data, mime)}


def write_wave(samples: np.ndarray, rate: int) -> bytes:
    """Returns samples, (time,) or (channels, time), in -1..1 as a 16-bit mono WAV file."""
    mono = samples.astype(float).reshape(-1, samples.shape[-1]).mean(axis=0)[: MOST_SECONDS * rate]
    file = BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes((np.clip(mono, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def to_url(content: bytes, mime: str) -> str:
    """Returns content as a data URL of a type."""
    return f"data:{mime};base64,{b64encode(content).decode()}"
