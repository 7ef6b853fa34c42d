"""The code beside a saved model: lines that import the installed plait, or plait's own modules as a few flat files.

What writes the flat files is imported on first use: `import plait` needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .export import ExportedCode, export_code, write_code

LAZY = {"ExportedCode": ".export", "export_code": ".export", "write_code": ".export"}

__all__ = ["ExportedCode", "export_code", "write_code"]


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
