"""Checksums of the files of a saved folder: written when they are saved, compared by `plait check`."""

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from .json_files import read_json_mapping

CHECKSUM_FILE = "checksums.json"
SUBFOLDERS = ("decoder_tokenizer",)  # of a saved folder, with files of its own
BLOCK = 2**20  # bytes read at once
SAFETENSORS = ".safetensors"
MAX_HEADER = 100_000_000  # bytes, as in safetensors

Stamp = tuple[int, int, int]


@contextmanager
def record_checksums(folder: str | PathLike[str], writes: bool = True) -> Iterator[None]:
    """Writes, at the end, the checksums of the files that were written into the folder inside this context; `writes`:
    whether this process does, of several."""
    root = Path(folder)
    before = list_stamps(root)
    yield
    if not writes:
        return
    after = list_stamps(root)
    written = [name for name, stamp in after.items() if before.get(name) != stamp]
    removed = before.keys() - after.keys()
    if written or removed:
        write_checksums(root, written, removed)


def write_checksums(folder: Path, names: Iterable[str], removed: Iterable[str] = ()) -> None:
    """Adds the checksums of these files, by their paths inside the folder, to those in its checksums.json, and drops
    those of removed files."""
    file = folder / CHECKSUM_FILE
    known = read_checksums(folder) if file.is_file() else {}
    known |= {name: compute_checksums(folder / name) for name in names}
    content = {"algorithm": "sha256", "files": {name: known[name] for name in sorted(known) if name not in removed}}
    unfinished = folder / f"{CHECKSUM_FILE}.{os.getpid()}.tmp"
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)


def renew_checksums(folder: Path) -> None:
    """Writes the checksums of all files of a folder as they are now, apart from texts for people (.md)."""
    names = [name for name in list_stamps(folder) if not name.endswith(".md")]
    write_checksums(folder, names, read_checksums(folder).keys() - set(names))


def read_checksums(folder: Path) -> dict[str, Any]:
    """Returns the checksums of a folder's files by their paths inside it; none if none were saved.

    Raises ValueError for a damaged checksums.json, or one that names a file outside the folder.
    """
    file = folder / CHECKSUM_FILE
    if not file.is_file():
        return {}
    files = read_json_mapping(file).get("files")
    if not isinstance(files, dict) or not all(is_entry(entry) for entry in files.values()):
        raise ValueError(f"{file} is damaged: delete it, and save the folder again to get a new one")
    if outside := [name for name in files if ".." in Path(name).parts or Path(name).is_absolute()]:
        raise ValueError(f"{file} names {outside[0]!r}, a file outside the folder: delete it")
    return files


def is_entry(value: Any) -> bool:
    """Returns whether a value has the form of a file's checksums."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("size"), int)
        and isinstance(value.get("sha256"), str)
        and isinstance(value.get("tensors", {}), dict)
    )


def find_changed_files(folder: Path) -> list[str]:
    """Returns one line for each file of the folder that is not as it was saved, with the tensors that differ."""
    found = []
    for name, saved in read_checksums(folder).items():
        file = folder / name
        if not file.is_file():
            found.append(f"{file} is missing, and was saved with {saved['size']} bytes")
        elif file.stat().st_size != saved["size"]:
            found.append(f"{file} has {file.stat().st_size} bytes, and was saved with {saved['size']}")
        elif (now := compute_checksums(file))["sha256"] != saved["sha256"]:
            found.append(f"{file} is not as it was saved{describe_tensors(saved, now)}")
    return found


def describe_tensors(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns which tensors differ, as the end of a sentence: "" if that is not known."""
    before, after = saved.get("tensors") or {}, now.get("tensors") or {}
    changed = [name for name in before if after.get(name) != before[name]]
    if not changed or not after:
        return ""
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f": {', '.join(changed[:3])}{more} changed"


def list_stamps(folder: Path) -> dict[str, Stamp]:
    """Returns what changes when a file is written again (time, size and inode), for each file of a saved folder."""
    found: dict[str, Stamp] = {}
    for place in ("", *SUBFOLDERS):
        if not (folder / place).is_dir():
            continue
        for entry in os.scandir(folder / place):
            kept = not entry.name.startswith(".") and not entry.name.endswith((".tmp", ".lock"))
            if kept and entry.name != CHECKSUM_FILE and entry.is_file():
                stat = entry.stat()
                found[f"{place}/{entry.name}" if place else entry.name] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found


def compute_checksums(file: Path) -> dict[str, Any]:
    """Computes the size and the SHA-256 of a file; of a safetensors file also the CRC-32 of each tensor."""
    digest, size = sha256(), 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            size += len(block)
        found: dict[str, Any] = {"size": size, "sha256": digest.hexdigest()}
        tensors = compute_tensor_checksums(stream, size) if file.suffix == SAFETENSORS else {}
    return found | ({"tensors": tensors} if tensors else {})


def compute_tensor_checksums(stream: BinaryIO, size: int) -> dict[str, str]:
    """Computes the CRC-32 of each tensor of an opened safetensors file; none if its header cannot be read."""
    places = read_tensor_places(stream, size)
    found: dict[str, str] = {}
    for name, (start, end) in places.items():
        stream.seek(start)
        check, left = 0, end - start
        while left > 0 and (block := stream.read(min(BLOCK, left))):
            check, left = crc32(block, check), left - len(block)
        found[name] = f"{check:08x}"
    return found


def read_tensor_places(stream: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Returns the first byte and the end of each tensor in an opened safetensors file, whose header is a length of 8
    bytes and JSON; none if it cannot be read."""
    stream.seek(0)
    begin = stream.read(8)
    length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else 0
    if not 0 < length <= min(size, MAX_HEADER):
        return {}
    try:
        header = json.loads(stream.read(length))
        return {
            name: (8 + length + place["data_offsets"][0], 8 + length + place["data_offsets"][1])
            for name, place in header.items()
            if name != "__metadata__"
        }
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        return {}
