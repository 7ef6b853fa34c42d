"""Returns freed memory to the operating system: the C library keeps what lies between small objects that are in use, so
that a process which reads for hours seems to grow."""

import ctypes
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
