"""Runs that are killed at random moments and resumed end in the weights of a run that was left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "kill_and_resume.py"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_no_model_is_lost_and_no_bit_differs(processes: int) -> None:
    kinds = ["train", "overwrite", "multitask"] if processes == 1 else ["train"]
    line = [
        sys.executable,
        str(SCRIPT),
        "--kills",
        "6",
        "--seed",
        "3",
        "--processes",
        str(processes),
        "--kinds",
        *kinds,
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost=0 differing=0 tracebacks=0 refused=0" in done.stdout.splitlines()[-1]
