"""The cards of models and processors: README.md with the metadata that the Hub reads. Imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .facts import CardFacts
    from .licences import find_origin
    from .model import describe_parts, describe_use, find_pipeline_tag
    from .pushing import push_folder, read_remote_card
    from .rendering import is_generated, render_hub_card, write_readme
    from .snippets import write_snippet

LAZY = {
    "CardFacts": ".facts",
    "describe_parts": ".model",
    "describe_use": ".model",
    "find_origin": ".licences",
    "find_pipeline_tag": ".model",
    "is_generated": ".rendering",
    "push_folder": ".pushing",
    "read_remote_card": ".pushing",
    "render_hub_card": ".rendering",
    "write_readme": ".rendering",
    "write_snippet": ".snippets",
}

__all__ = [
    "CardFacts",
    "describe_parts",
    "describe_use",
    "find_origin",
    "find_pipeline_tag",
    "is_generated",
    "push_folder",
    "read_remote_card",
    "render_hub_card",
    "write_readme",
    "write_snippet",
]


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
