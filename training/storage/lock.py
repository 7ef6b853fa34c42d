"""A lock on a folder that lasts as long as the process that holds it."""

import json
import os
import socket
import sys
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

HOLDER_LENGTH = 4096  # bytes at the start of the file; on Windows the byte after them is locked


class FolderLock:
    """A lock with which one process at a time writes to a folder; the system frees that of a process that is killed.

    The lock is a file next to the folder, `.NAME.lock` (inside it, if only the folder can be written to), with the
    process that holds it; it is removed when the lock is released.
    """

    def __init__(self, folder: Path) -> None:
        outside = os.access(folder.parent, os.W_OK) or not folder.is_dir()
        self.path = folder.with_name(f".{folder.name}.lock") if outside else folder / ".lock"
        self.handle: int | None = None

    def acquire(self) -> None:
        """Acquires the lock. Raises BlockingIOError, which names the holder, if another process has it."""
        while self.handle is None:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                lock_handle(handle)
                kept = is_file_of(handle, self.path)
            except OSError as error:
                holder = os.pread(handle, HOLDER_LENGTH, 0) if sys.platform != "win32" else b""
                os.close(handle)
                raise BlockingIOError(describe_holder(holder)) from error
            if kept:
                self.handle = handle
            else:  # its last holder removed the file after it was opened here
                os.close(handle)
        holder = {"process": os.getpid(), "machine": socket.gethostname(), "command": " ".join(sys.argv)}
        os.ftruncate(self.handle, 0)
        os.write(self.handle, json.dumps(holder).encode()[:HOLDER_LENGTH])

    def release(self) -> None:
        """Releases the lock, if it is held."""
        handle, self.handle = self.handle, None
        if handle is not None:
            self.path.unlink(missing_ok=True)
            os.close(handle)


def lock_handle(handle: int) -> None:
    """Locks an open file for this process. Raises OSError if another process has it.

    A child that the process forks does not inherit the lock: workers that outlive a killed process do not hold it.
    """
    if sys.platform == "win32":
        os.lseek(handle, HOLDER_LENGTH, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_file_of(handle: int, path: Path) -> bool:
    """Returns whether an open file is still the one of this path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def describe_holder(content: bytes) -> str:
    """Returns a text with the process in a lock's file."""
    try:
        holder = json.loads(content)
        return f"process {holder['process']} on {holder['machine']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
