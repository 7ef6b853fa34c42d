"""Reads pretrained checkpoints as components with their heads, and writes them back exactly.

A component is a tower or a decoder. Most checkpoints hold one; an encoder-decoder holds an encoder and a decoder.
May import: modeling/heads and below; within this folder conversion, then families, then the modules in it.
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
