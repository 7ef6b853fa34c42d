"""Computes keys of images, audio clips and videos from their content: equal keys mean equal inputs of the processor.

A path or an id is no key, because the file behind it may be replaced, and a file's size and time may stay the same.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image

from ...processing.images import describe, read_file_content


def find_path(value: Any) -> str | None:
    """Returns the path of an item that is known by its path alone; None for an item that holds its content."""
    if isinstance(value, (str, PathLike)):
        return fspath(value)
    named = isinstance(value, Mapping) and not value.get("bytes") and value.get("path") is not None
    return fspath(value["path"]) if named else None


def read_content(value: Any) -> Any:
    """Returns an item with its file read, as {"bytes", "path"}, so that what is identified is what is processed; of a
    list of frames each. An item that holds its content is returned unchanged.

    Raises:
        FileNotFoundError: no file at this path.
        ValueError: neither content nor a path.
    """
    if isinstance(value, (list, tuple)):
        return [read_content(frame) for frame in value]
    path = find_path(value)
    if path is not None:
        return {"bytes": read_file_content(path), "path": path}
    if isinstance(value, Mapping) and value.get("array") is None:
        read_file_content(value)
    return value


def compute_item_key(value: Any) -> str:
    """Computes the key of an item: a digest of its file's bytes, or of its pixels, samples or frames.

    Raises:
        FileNotFoundError: no file at the path of an item that was not read.
        TypeError: a value of which the content is not known.
        ValueError: neither content nor a path.
    """
    digest = sha256()
    for part in iterate_content(read_content(value)):
        digest.update(part)
    return digest.hexdigest()


def iterate_content(value: Any) -> Iterator[Any]:
    """Yields the buffers that identify an item, the first of which says what the next ones are."""
    if isinstance(value, Mapping):
        if value.get("array") is not None:
            yield f"samples {value.get('sampling_rate')} ".encode()
            yield from iterate_content(value["array"])
        if value.get("bytes"):
            yield from iterate_content(value["bytes"])
    elif isinstance(value, bytes):
        yield f"file {len(value)} ".encode()
        yield value
    elif isinstance(value, (list, tuple)):
        yield f"list {len(value)} ".encode()
        yield " ".join(map(compute_item_key, value)).encode()
    elif isinstance(value, Image.Image):
        yield from iterate_image(value)
    elif isinstance(value, torch.Tensor):
        # a tensor is read with other rules than an array: its channels come first
        yield f"tensor {value.dtype} {tuple(value.shape)} ".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"array {value.dtype} {value.shape} ".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    else:
        raise TypeError(
            f"{describe(value)} has no content that can be read: pass a path, the bytes of a file, a Pillow image, an "
            "array or tensor of numbers, or a list of frames"
        )


def iterate_image(image: Image.Image) -> Iterator[bytes]:
    """Yields what the colours of a Pillow image depend on: its values, palette, transparent colour and orientation."""
    try:
        image.load()
        palette = None if image.palette is None else (image.palette.mode, image.getpalette(None))
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"{describe(image)} is not a readable image: {error}") from error
    yield repr(("image", image.mode, image.size, palette, image.info.get("transparency"), orientation)).encode()
    yield image.tobytes()
