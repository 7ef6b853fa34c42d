"""A stream of training rows, shuffled within a buffer, whose place can be saved and found again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ..data.media import Row
from ..data.samplers import cut_batches
from .heap import trim_heap

if TYPE_CHECKING:
    from datasets import Dataset
    from datasets import IterableDataset as Stream

PLACE = "stream_place"  # the key of a batch that holds the place behind its last row
ORDER = ("processes", "buffer", "seed", "tokens")  # what the order of the rows depends on
TRIMMED_BLOCKS = 20  # blocks after which freed memory is returned
BEGIN: dict[str, Any] = {"reading": 0, "block": 0, "done": 0, "state": None}


class TokenBudget(NamedTuple):
    """The size of a batch in tokens. tokens: at most, with padding; count: counts the tokens of each row of a block."""

    tokens: int
    count: "Callable[[Dataset], Sequence[int]]"


class StreamRows(list[Row]):
    """The rows of a batch. place: of the stream behind the last of them."""

    def __init__(self, rows: Sequence[Row], place: dict[str, Any]) -> None:
        super().__init__(rows)
        self.place = place


class RowStream(IterableDataset):
    """Rows of streams of the library `datasets`, without an end: when all are read, they are read again, in another
    order. Yields batches, as `StreamRows`.

    Each block of `buffer` rows is read, prepared and shuffled, so that at most one block is in memory. A place in the
    stream is the library's own state at the beginning of a block and the number of rows of it that are done: resuming
    reads one block again, and its rows come in the same order.

    With a budget of tokens a block is cut into batches of rows of similar length, as many as fit into the budget; a row
    that is longer is a batch by itself, and the longest rows of a block may fill their batch in part only.

    Args:
        open_round: opens the stream for the n-th reading of all rows, from 0.
        batch_size: rows of a batch, without a budget.
        buffer: rows of a block.
        seed: of the order of the rows in a block.
        prepare: maps the rows of a block to those that are trained on; None: they are these.
        process, processes: which of the processes this is; each reads other rows, and all of them together read all.
        budget: the size of a batch in tokens instead of rows.

    Raises:
        ValueError: a batch size, buffer or budget below 1; while it is read: no rows, or several workers of a loader,
            which would each read all.
    """

    def __init__(
        self,
        open_round: "Callable[[int], Stream]",
        batch_size: int = 1,
        buffer: int = 1000,
        seed: int = 42,
        prepare: "Callable[[Dataset], Dataset] | None" = None,
        process: int = 0,
        processes: int = 1,
        budget: TokenBudget | None = None,
    ) -> None:
        if batch_size < 1 or buffer < 1:
            raise ValueError(f"a stream has batches of {batch_size} rows and a buffer of {buffer}: expected at least 1")
        if budget is not None and budget.tokens < 1:
            raise ValueError(f"a stream has batches of {budget.tokens} tokens: expected at least 1")
        self.open_round, self.batch_size, self.buffer = open_round, batch_size, buffer
        self.seed, self.prepare, self.process, self.processes = seed, prepare, process, processes
        self.budget, self.blocks_read = budget, count(1)
        self.place: dict[str, Any] = dict(BEGIN)  # behind the last batch that was trained on

    @property
    def tokens(self) -> int | None:
        """The tokens of a batch at most; None without a budget."""
        return None if self.budget is None else self.budget.tokens

    def split(self, batch_size: int, process: int, processes: int, budget: TokenBudget | None = None) -> "RowStream":
        """Returns the share of one of several processes, in batches of this size, or of this budget or else its own."""
        whole = (self.open_round, batch_size, self.buffer, self.seed, self.prepare)
        return RowStream(*whole, process, processes, self.budget if budget is None else budget)

    def __iter__(self) -> Iterator[StreamRows]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError(
                f"a stream is read by one worker, not {worker.num_workers}: set dataloader_num_workers to 1"
            )
        rows: list[Row] = []
        for row, behind, is_last in self._iterate_rows(self.place):
            rows.append(row)
            if is_last or (self.budget is None and len(rows) == self.batch_size):
                yield StreamRows(rows, behind)
                rows = []

    def _iterate_rows(self, place: Mapping[str, Any]) -> Iterator[tuple[Row, dict[str, Any], bool]]:
        """Yields rows, each with the place behind it and whether it ends a batch of a budget, from a place on."""
        reading, first, done, state = (place[name] for name in BEGIN)
        is_empty = place == BEGIN
        while True:
            data = self._open_share(reading)
            if state is not None:
                data.load_state_dict(state)
            for number, (begun, block) in enumerate(self._iterate_blocks(data), start=first):
                order, ends = self._plan_block(block, np.random.default_rng([self.seed, reading, number]))
                for row_number, row in enumerate(order[done:], start=done + 1):
                    is_empty = False
                    behind = {"reading": reading, "block": number, "done": row_number, "state": begun}
                    yield block[row], behind, row_number in ends
                done = 0
            if is_empty:
                raise ValueError("the stream has no rows for this process: give it more rows, or use fewer processes")
            reading, first, state = reading + 1, 0, None

    def _plan_block(self, block: Any, random: np.random.Generator) -> tuple[Sequence[int], frozenset[int]]:
        """Returns the order of a block's rows, and with a budget the numbers of rows after which a batch ends."""
        order: list[int] = random.permutation(len(block)).tolist()
        if self.budget is None or not len(block):
            return order, frozenset()
        lengths = self.budget.count(block)
        order = sorted(order, key=lengths.__getitem__)  # rows of equal length stay shuffled
        cuts = cut_batches([lengths[row] for row in order], self.budget.tokens)
        batches = [order[start:end] for start, end in (cuts[number] for number in random.permutation(len(cuts)))]
        ends = np.cumsum([len(batch) for batch in batches]).tolist()
        return [row for batch in batches for row in batch], frozenset(ends)

    def _open_share(self, reading: int) -> "Stream":
        """Opens this process's share of the rows."""
        from datasets.distributed import split_dataset_by_node

        data = self.open_round(reading)
        return data if self.processes == 1 else split_dataset_by_node(data, self.process, self.processes)

    def _iterate_blocks(self, data: "Stream") -> "Iterator[tuple[dict[str, Any] | None, Any]]":
        """Yields the library's state before each block, and the block."""
        from datasets import Dataset

        rows = iter(data)
        while True:
            if not next(self.blocks_read) % TRIMMED_BLOCKS:
                trim_heap()
            begun = data.state_dict()
            block: Any = list(islice(rows, self.buffer))
            if not block:
                return
            if self.prepare is not None or self.budget is not None:
                block = Dataset.from_list(block)
            yield begun, block if self.prepare is None else self.prepare(block)

    def state_dict(self) -> dict[str, Any]:
        """Returns the place behind the last batch that was trained on (`place`), as plain values."""
        return {"place": self.place, **{name: getattr(self, name) for name in ORDER}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a place that `state_dict` returned.

        Raises ValueError for one of another number of processes, buffer, seed or tokens of a batch, whose rows come in
        another order.
        """
        for name in ORDER:
            before = state.get(name)
            if before != getattr(self, name):
                raise ValueError(
                    f"the stream was read with {name} {before}, and now with {getattr(self, name)}: resume with "
                    f"{before}, or start anew"
                )
        self.place = dict(state["place"])


class StreamCollator:
    """Builds the inputs of a batch of `StreamRows` by another collator, and puts the stream's place beside them."""

    def __init__(self, collate: Callable[[Sequence[Row]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: StreamRows) -> dict[str, Any]:
        """Returns the inputs, with the place as `PLACE`."""
        return {**self.collate(rows), PLACE: rows.place}
