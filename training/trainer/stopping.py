"""Signals that stop a run: in training, a checkpoint is saved first."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch

from ..recipes.errors import RunInterrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEAT_SECONDS = 0.02


class StopSignals:
    """Within its context, Ctrl-C (SIGINT) and SIGTERM raise RunInterrupted, where that is safe.

    Within `defer()` the first signal is only remembered, in `received`; a second one raises. One of several processes
    handles signals only there, because a process that waits for others cannot. A signal that strikes where Python
    ignores errors (in `__del__`, in the callback of a weak reference) is repeated a moment later.
    """

    def __init__(self, processes: int = 1) -> None:
        self.received: int | None = None
        self.processes = processes
        self.deferring = False
        self.previous: dict[int, Any] = {}
        self.previous_hook: Any = None

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
        if self.previous or threading.current_thread() is not threading.main_thread():
            return
        self.previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self.previous_hook, sys.unraisablehook = sys.unraisablehook, self._repeat

    def _restore(self) -> None:
        if self.previous:
            sys.unraisablehook = self.previous_hook
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.deferring and self.received is None:
            self.received = number
        else:
            raise RunInterrupted(number)

    def _repeat(self, ignored: Any) -> None:
        """Takes the place of `sys.unraisablehook`."""
        if isinstance(ignored.exc_value, RunInterrupted):
            threading.Timer(REPEAT_SECONDS, signal.raise_signal, (ignored.exc_value.number,)).start()
        else:
            self.previous_hook(ignored)
