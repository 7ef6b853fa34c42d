"""Search of images, texts, audio clips and videos by a retrieval model: an index of their vectors in files."""

from .items import IndexItem
from .nearest import find_nearest
from .searcher import Searcher, open_search
from .vector_index import Match, VectorIndex

__all__ = ["IndexItem", "Match", "Searcher", "VectorIndex", "find_nearest", "open_search"]
