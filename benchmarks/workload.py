"""What a benchmark measures."""

from collections.abc import Callable
from typing import NamedTuple

from limits import Work
from torch import Tensor

Side = Callable[[], Tensor]


class Workload(NamedTuple):
    """ours, the peer as it comes, and the peer at its best; each returns what the others must equal: to `tolerance`
    (max|a - b| / max(1, max|b|)), or exactly. work: what must be computed at least."""

    title: str
    ours: Side
    default: Side
    best: Side
    tolerance: float = 1e-5
    exact: bool = False
    work: Work = Work(0.0)
