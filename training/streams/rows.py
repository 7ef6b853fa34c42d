"""A stream of training rows, shuffled within a buffer, whose place can be saved and found again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ..data.media import Row

if TYPE_CHECKING:
    from datasets import Dataset
    from datasets import IterableDataset as Stream

PLACE = "stream_place"  # the key of a batch that holds the place behind its last row
BEGIN: dict[str, Any] = {"reading": 0, "block": 0, "done": 0, "state": None}


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

    Args:
        open_round: opens the stream for the n-th reading of all rows, from 0.
        batch_size: rows of a batch.
        buffer: rows of a block.
        seed: of the order of the rows in a block.
        prepare: maps the rows of a block to those that are trained on; None: they are these.
        process, processes: which of the processes this is; each reads other rows, and all of them together read all.

    Raises:
        ValueError: a batch size or buffer below 1; while it is read: no rows, or several workers of a loader, which
            would each read all.
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
    ) -> None:
        if batch_size < 1 or buffer < 1:
            raise ValueError(f"a stream has batches of {batch_size} rows and a buffer of {buffer}: expected at least 1")
        self.open_round, self.batch_size, self.buffer = open_round, batch_size, buffer
        self.seed, self.prepare, self.process, self.processes = seed, prepare, process, processes
        self.place: dict[str, Any] = dict(BEGIN)  # behind the last batch that was trained on

    def split(self, batch_size: int, process: int, processes: int) -> "RowStream":
        """Returns the share of one of several processes, in batches of this size."""
        return RowStream(self.open_round, batch_size, self.buffer, self.seed, self.prepare, process, processes)

    def __iter__(self) -> Iterator[StreamRows]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError(
                f"a stream is read by one worker, not {worker.num_workers}: set dataloader_num_workers to 1"
            )
        rows: list[Row] = []
        for row, behind in self._iterate_rows(self.place):
            rows.append(row)
            if len(rows) == self.batch_size:
                yield StreamRows(rows, behind)
                rows = []

    def _iterate_rows(self, place: Mapping[str, Any]) -> Iterator[tuple[Row, dict[str, Any]]]:
        """Yields rows, each with the place behind it, from a place on."""
        reading, first, done, state = (place[name] for name in BEGIN)
        is_empty = place == BEGIN
        while True:
            data = self._open_share(reading)
            if state is not None:
                data.load_state_dict(state)
            for number, (begun, block) in enumerate(self._iterate_blocks(data), start=first):
                order = np.random.default_rng([self.seed, reading, number]).permutation(len(block))
                for count, row in enumerate(order[done:], start=done + 1):
                    is_empty = False
                    yield block[int(row)], {"reading": reading, "block": number, "done": count, "state": begun}
                done = 0
            if is_empty:
                raise ValueError("the stream has no rows for this process: give it more rows, or use fewer processes")
            reading, first, state = reading + 1, 0, None

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
            begun = data.state_dict()
            block = list(islice(rows, self.buffer))
            if not block:
                return
            yield begun, block if self.prepare is None else self.prepare(Dataset.from_list(block))

    def state_dict(self) -> dict[str, Any]:
        """Returns the place behind the last batch that was trained on (`place`), as plain values."""
        return {"place": self.place, "processes": self.processes, "buffer": self.buffer, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a place that `state_dict` returned.

        Raises ValueError for one of another number of processes, buffer or seed, whose rows come in another order.
        """
        for name in ("processes", "buffer", "seed"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the stream was read with {name} {state[name]}, and now with {getattr(self, name)}: resume with "
                    f"{state[name]}, or start anew"
                )
        self.place = dict(state["place"])


class StreamCollator:
    """Builds the inputs of a batch of `StreamRows` by another collator, and puts the stream's place beside them."""

    def __init__(self, collate: Callable[[Sequence[Row]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: StreamRows) -> dict[str, Any]:
        """Returns the inputs, with the place as `PLACE`."""
        return {**self.collate(rows), PLACE: rows.place}
