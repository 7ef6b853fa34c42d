"""Two processes that train together."""

import os
import signal
import subprocess
import sys


def run_module(*arguments: str) -> None:
    """`python -m` with these arguments, in a session of its own, so that a launcher that hangs goes with all of its
    workers; fails with what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == 0, output
