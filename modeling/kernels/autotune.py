"""Remembers which kernel is the fastest: measured when it is first needed, once per machine, torch version and number
of threads.

The choices are kept in a file in the cache of the Hugging Face libraries (`HF_ASSETS_CACHE`), so that every process of
a machine computes with the same kernels: of several that measure at once, the first to write decides. Where nothing can
be written, each process measures for itself. `PLAIT_AUTOTUNE=0` in the environment, and
`torch.use_deterministic_algorithms(True)`, leave torch's own kernels.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import cached_assets_path

LOCK_SECONDS = 10
FASTER_SHARE = 0.97  # another kernel is chosen if it takes less than this share of the time of torch's

_known: dict[str, str] = {}  # by key and number of threads


def is_autotuning() -> bool:
    """Returns whether kernels may be measured and chosen (see this module's docstring for what turns it off)."""
    return os.environ.get("PLAIT_AUTOTUNE", "1") != "0" and not torch.are_deterministic_algorithms_enabled()


def recall_choice(key: str, measure: Callable[[], str]) -> str:
    """Returns the choice that this machine remembers under a key; `measure` makes it where there is none."""
    key = f"{key}, {torch.get_num_threads()} threads"
    if key not in _known:
        _known.update(_read_choices())
    if key not in _known:
        _remember(key, measure())
    return _known[key]


def select_fastest(kernels: Mapping[str, Callable[[], object]], repeats: int = 5) -> str:
    """Returns the name of the fastest kernel by CPU time, the least of `repeats` after a first call; that of the first,
    torch's, unless another is clearly faster. The kernels take turns."""
    times: dict[str, list[float]] = {name: [] for name in kernels}
    with torch.inference_mode():
        for _ in range(1 + repeats):
            for name, kernel in kernels.items():
                start = time.process_time()
                kernel()
                times[name].append(time.process_time() - start)
    least = {name: min(own[1:]) for name, own in times.items()}
    default, best = next(iter(least)), min(least, key=least.__getitem__)
    return best if least[best] < FASTER_SHARE * least[default] else default


@cache
def find_choices_file() -> Path | None:
    """Returns the file of this machine's choices; None if the cache's folder cannot be made."""
    try:
        folder = cached_assets_path("plait", "kernels")
    except OSError:
        return None
    return folder / f"{hashlib.sha256(describe_machine().encode()).hexdigest()[:16]}.json"


def describe_machine() -> str:
    """Returns what a choice depends on: the processor with its instruction sets, and torch's version."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.is_file() else []
    named = [line for line in lines if line.startswith(("model name", "flags", "Features", "cache size"))]
    return "\n".join((*named, platform.machine(), torch.__version__))


def _read_choices() -> dict[str, str]:
    """Reads the file of choices; one that is missing, damaged or unreadable holds none."""
    file = find_choices_file()
    try:
        found = json.loads(file.read_text()) if file else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(name, str) for name in found.values()) else {}


def _remember(key: str, choice: str) -> None:
    """Adds a choice to those known and to the file, where the choice of another process stands if it was first."""
    file = find_choices_file()
    _known[key] = choice
    if file is None:
        return
    try:
        with FileLock(file.with_suffix(".lock"), timeout=LOCK_SECONDS):
            found = {key: choice, **_read_choices()}
            written = file.with_suffix(".tmp")
            written.write_text(json.dumps(found, indent=1, sort_keys=True))
            os.replace(written, file)
    except OSError:  # a read-only cache: the choice holds in this process
        return
    _known.update(found)
