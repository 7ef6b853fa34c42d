"""The checkpoints of a run: written whole or not at all, checked before a run resumes from one, and rotated by step."""

import json
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import logging

from .atomic import UNFINISHED, flush_tree, write_json

logger = logging.get_logger(__name__)

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
MANIFEST = "checkpoint_files.json"  # sizes and CRC-32 sums of a checkpoint's files, written last
STATE_FILE = "trainer_state.json"
CHUNK = 1 << 20  # bytes


def install_checkpoint(staged: Path, target: Path, writes: bool) -> None:
    """Renames a complete checkpoint to its place; `writes`: whether this process also adds its manifest.

    The processes of another machine find the folder renamed if they share the disk, and rename their own files if not.
    """
    if writes:
        write_manifest(staged)
        flush_tree(staged)
    if not staged.is_dir():
        return
    if target.exists():
        discarded = target.with_name(f".{target.name}.old{UNFINISHED}")
        shutil.rmtree(discarded, ignore_errors=True)
        os.replace(target, discarded)
        os.replace(staged, target)
        shutil.rmtree(discarded)
    else:
        os.replace(staged, target)


def write_manifest(folder: Path) -> None:
    """Writes the sizes and checksums of a checkpoint's files into it."""
    sums = {str(path.relative_to(folder)): measure_file(path) for path in list_files(folder)}
    write_json(folder / MANIFEST, sums)


def list_files(folder: Path) -> list[Path]:
    """Returns the files of a checkpoint, without the manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def measure_file(path: Path) -> list[int]:
    """Returns a file's size in bytes and its CRC-32 sum."""
    size = total = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size, total = size + len(chunk), zlib.crc32(chunk, total)
    return [size, total]


def find_damage(folder: Path) -> str | None:
    """Returns what is wrong with a checkpoint's files, in one line; None if it is whole."""
    step = parse_step(folder.name)
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        if state.get("global_step") != step:
            return f"{STATE_FILE} is of step {state.get('global_step')}"
        return next(find_damaged_files(folder), None)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError, KeyError, TypeError, struct.error) as error:
        return f"{type(error).__name__}: {error}"


def find_damaged_files(folder: Path) -> Iterator[str]:
    """Yields the problems of a checkpoint's files, by its manifest; without one by their own formats."""
    if (folder / MANIFEST).exists():
        for name, found in json.loads((folder / MANIFEST).read_text(encoding="utf-8")).items():
            if measure_file(folder / name) != list(found):
                yield f"{name} has other bytes than were written"
        return
    for path in list_files(folder):
        if not is_readable(path):
            yield f"{path.name} is damaged"


def is_readable(path: Path) -> bool:
    """Returns whether a file is whole, as far as its format tells: safetensors, torch's zip files and JSON."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
    if path.suffix in (".pt", ".pth", ".bin"):
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as content:
            return content.testzip() is None
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
        return True
    return True


def parse_step(name: str) -> int | None:
    """Returns the step in the name of a checkpoint's folder; None for another name."""
    match = CHECKPOINT_NAME.fullmatch(name)
    return None if match is None else int(match[1])


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, the newest (by its step, not by the clock) last."""
    found = [path for path in folder.glob("checkpoint-*") if parse_step(path.name) is not None and path.is_dir()]
    return sorted(found, key=lambda path: parse_step(path.name) or 0)


def find_whole_checkpoint(folder: Path) -> Path | None:
    """Returns the newest whole checkpoint in a folder; None if there is none. Newer ones that are damaged are renamed
    `damaged-checkpoint-N`, and the log says why."""
    for path in reversed(list_checkpoints(folder)):
        damage = find_damage(path)
        if damage is None:
            return path
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        logger.warning(f"{path} is not whole ({damage}): it is set aside as {aside.name}")
    return None


def rotate_checkpoints(folder: Path, limit: int | None, best: str | None) -> None:
    """Removes the oldest checkpoints above `limit`, by step; the newest and the best stay."""
    if limit is None or limit < 1:
        return
    found = list_checkpoints(folder)
    kept = {path.name for path in found[-1:]} | ({Path(best).name} if best is not None else set())
    excess = len(found) - max(limit, len(kept))
    for path in [path for path in found if path.name not in kept][: max(excess, 0)]:
        discarded = path.with_name(f".{path.name}.old{UNFINISHED}")
        path.rename(discarded)  # a removal that is interrupted leaves no half checkpoint
        shutil.rmtree(discarded)


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process was writing into a folder."""
    for path in folder.glob(f".*{UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def relocate_best(checkpoint: Path) -> None:
    """Corrects the path of the best checkpoint in a checkpoint's state, after the run folder was moved."""
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    best = state.get("best_model_checkpoint")
    moved = checkpoint.parent / Path(best).name if best else checkpoint
    if not best or not moved.is_dir() or Path(best) == moved:
        return
    write_json(checkpoint / STATE_FILE, {**state, "best_model_checkpoint": str(moved)})
    if (checkpoint / MANIFEST).exists():
        sums = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        write_json(checkpoint / MANIFEST, {**sums, STATE_FILE: measure_file(checkpoint / STATE_FILE)})
