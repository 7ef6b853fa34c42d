"""Pipelines that answer in one call: `plait.pipeline("translation", model=FOLDER)("a dog runs")`."""

from .factory import pipeline
from .specs import PIPELINES

__all__ = ["PIPELINES", "pipeline"]
