"""The lock of a folder: one process at a time, and no longer than it lives."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.training.storage.lock import FolderLock


def run_in_child(work: Callable[[], None]) -> int:
    """Forks a process that does the work; returns its id once it is done and waits to be killed."""
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(done, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(done)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_second_process_is_refused_with_the_first_one_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = run_in_child(lambda: FolderLock(folder).acquire())
    try:
        with pytest.raises(BlockingIOError, match=f"process {child} on "):
            FolderLock(folder).acquire()
    finally:
        kill(child)
    assert (tmp_path / ".run.lock").exists()  # left by the killed process, and free
    lock = FolderLock(folder)
    lock.acquire()
    lock.release()
    assert not (tmp_path / ".run.lock").exists()


def test_a_worker_that_outlives_its_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    note = tmp_path / "worker"

    def work() -> None:
        FolderLock(tmp_path / "run").acquire()
        worker = os.fork()
        if worker == 0:
            signal.pause()
        note.write_text(str(worker))

    kill(run_in_child(work))
    try:
        lock = FolderLock(tmp_path / "run")
        lock.acquire()
        lock.release()
    finally:
        os.kill(int(note.read_text()), signal.SIGKILL)
