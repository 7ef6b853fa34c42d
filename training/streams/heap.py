"""What the C library does with freed memory: it returns large tensors to the operating system, which must clear the
pages of the next ones, and keeps what lies between small objects that are in use, so that a process which reads for
hours seems to grow."""

import ctypes
import os
import sys
from collections.abc import Callable


def find_trim() -> Callable[[int], int] | None:
    """Returns the function `malloc_trim` of glibc; None for another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def trim_heap() -> None:
    """Returns the freed memory of this process, where the C library can."""
    trim = find_trim()
    if trim is not None:
        trim(0)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = (2**30, 2**25)  # larger tensors are returned; an older glibc takes the smaller number alone


def keep_freed_memory() -> bool:
    """Tells the C library to keep the memory of freed tensors for the next ones, which saves the page faults of every
    training step: about a tenth of a small model's. Returns whether it does: with glibc, and where no variable of
    glibc's own (`MALLOC_...`, `GLIBC_TUNABLES`) is set in the environment.

    It holds for the whole process, so only a process that is plait's own should call it.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or find_trim() is None:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = any(mallopt(M_MMAP_THRESHOLD, size) for size in KEPT_BYTES)
    return bool(kept and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
