"""The script that measures a GPU runs where there is none, so that one try suffices where there is."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_workload_runs_on_a_small_model() -> None:
    """But captioning, whose models are large, and Liger's loss, which needs a GPU."""
    folder = Path(__file__).parents[1] / "benchmarks"
    names = ["encode", "train", "vision", "clip", "loss", "flex", "decode", "decode-graph"]
    command = [sys.executable, "gpu.py", *names, "--tiny", "--rounds", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    closing = done.stdout.splitlines()[-len(names) :]
    assert [line.split()[0] for line in closing] == names and all("limit=" in line for line in closing)
