"""Files and folders that are whole or absent: written to a temporary name, flushed to the disk and renamed."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished"  # in the names of files and folders that are being written


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which replaces `path` when the context ends, or is removed by an error."""
    unfinished = path.with_name(f".{os.getpid()}{UNFINISHED}.{path.name}")  # its suffix may choose the format
    try:
        yield unfinished
        flush(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, in UTF-8."""
    with replace_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes plain values to a JSON file; numbers that JSON does not have (NaN, infinity) become null."""
    text = json.dumps(replace_non_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{text}\n")


def replace_non_finite(content: Any) -> Any:
    """Returns plain values with None in place of NaN and infinity."""
    if isinstance(content, Mapping):
        return {key: replace_non_finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [replace_non_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def install_folder(staged: Path, target: Path) -> None:
    """Moves every file of a complete folder into another one on the same disk, each whole; removes the first folder.

    Files of the target that the first folder does not have stay.
    """
    flush_tree(staged)
    for file in sorted(path for path in staged.rglob("*") if path.is_file()):
        place = target / file.relative_to(staged)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
    shutil.rmtree(staged)
    flush_tree(target, files=False)


def flush_tree(folder: Path, files: bool = True) -> None:
    """Flushes a folder with its files and folders to the disk."""
    for place, _, names in os.walk(folder):
        for name in names if files else ():
            flush(Path(place, name))
        flush(Path(place))


def flush(path: Path) -> None:
    """Flushes a file or folder to the disk, so that it survives a loss of power."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handles of folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
