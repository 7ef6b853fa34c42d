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
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import cached_assets_path

KERNELS_VERSION = 2  # raised with each new kernel, so that choices are made anew
LOCK_SECONDS = 10
FASTER_SHARE = 0.97  # another kernel is chosen if it takes less than this share of the time of torch's
FEWEST_TURNS, MOST_TURNS = 5, 20  # of a measurement
SETTLED_RATIO = 1.02

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


def select_fastest(kernels: Mapping[str, Callable[[], object]]) -> str:
    """Returns the name of the kernel with the least CPU time; that of the first, torch's, unless another is clearly
    faster."""
    least = dict(zip(kernels, measure_least(list(kernels.values())), strict=True))
    default, best = next(iter(least)), min(least, key=least.__getitem__)
    return best if least[best] < FASTER_SHARE * least[default] else default


def measure_least(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Measures the least CPU time of each call in seconds. The calls take turns, after a first one that does not count,
    at least `FEWEST_TURNS` times and until the two least times of each are nearly the same: while other programs use
    the memory, all calls take long, and none looks faster."""
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for call in calls:
            call()
        for turn in range(MOST_TURNS):
            if turn >= FEWEST_TURNS and all(map(is_settled, times)):
                break
            for call, own in zip(calls, times, strict=True):
                start = time.process_time()
                call()
                own.append(time.process_time() - start)
    return [min(own) for own in times]


def is_settled(seconds: Sequence[float]) -> bool:
    """Returns whether the two least of some times are nearly the same."""
    least, second = sorted(seconds)[:2]
    return second <= SETTLED_RATIO * least


@cache
def find_choices_file() -> Path | None:
    """Returns the file of this machine's choices; None if the cache's folder cannot be made."""
    try:
        folder = cached_assets_path("plait", "kernels")
    except OSError:
        return None
    return folder / f"{hashlib.sha256(describe_machine().encode()).hexdigest()[:16]}.json"


def describe_machine() -> str:
    """Returns what a choice depends on: the processor with its instruction sets, torch's version, and the kernels that
    there are to choose from."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.is_file() else []
    named = [line for line in lines if line.startswith(("model name", "flags", "Features", "cache size"))]
    return "\n".join((*named, platform.machine(), torch.__version__, f"kernels {KERNELS_VERSION}"))


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
