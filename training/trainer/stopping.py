"""Signals that stop a run: in training, a checkpoint is saved first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch

from ..recipes.errors import RunInterrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Within its context, Ctrl-C (SIGINT) and SIGTERM raise RunInterrupted, where that is safe.

    Within `defer()` the first signal is only remembered, in `received`; a second one raises. One of several processes
    handles signals only there, because a process that waits for others cannot.
    """

    def __init__(self, processes: int = 1) -> None:
        self.received: int | None = None
        self.processes = processes
        self.deferring = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if self.processes == 1:
            self._install()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    @contextmanager
    def defer(self) -> Iterator[None]:
        """Opens a context in which a signal waits: until the trainer asks for it, or else until the context ends."""
        self._install()
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False
            if self.processes > 1:
                self._restore()
        if self.received is not None:
            raise RunInterrupted(self.received)

    def find_agreed(self, device: torch.device) -> int | None:
        """Returns the signal that any of the processes has received; every process has to ask at the same step."""
        if self.processes == 1:
            return self.received
        largest = torch.tensor(self.received or 0, device=device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        self.received = int(largest) or None
        return self.received

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number not in self.previous:
                    self.previous[number] = signal.signal(number, self._handle)

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.deferring and self.received is None:
            self.received = number
        else:
            raise RunInterrupted(number)
