"""Published checkpoints in and out: the components of a file, with the heads that came with them, and exactly back.

A component is a tower or a decoder. Most files hold one; an encoder-decoder holds both.
May import: modeling/heads and below; in this folder conversion, then families, then the files beside them.
"""

from .export import export
from .lookup import build_component_config, find_family
from .reading import read_component, read_components
from .writing import write_component, write_components

__all__ = [
    "build_component_config",
    "export",
    "find_family",
    "read_component",
    "read_components",
    "write_component",
    "write_components",
]
