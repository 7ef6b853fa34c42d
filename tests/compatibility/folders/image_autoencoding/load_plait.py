"""Lets transformers load this folder by plait's classes (trust_remote_code=True): pip install plait"""

from plait import PlaitConfig, PlaitProcessor

__all__ = ["PlaitConfig", "PlaitProcessor"]
