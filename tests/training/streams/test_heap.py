"""Memory of freed tensors that a process of plait's own keeps, unless the user has chosen otherwise."""

import json
import os
import subprocess
import sys

import pytest

from plait.training.streams.heap import find_trim

COUNT_FAULTS = """
import json, resource, sys
import torch
from plait.training.streams.heap import keep_freed_memory
kept = keep_freed_memory()
for step in range(16):
    if step == 6:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**22) + torch.ones(2**22)
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def count_faults(**environment: str) -> list[int]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", COUNT_FAULTS]
    done = subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(find_trim() is None, reason="needs glibc")
def test_freed_tensors_serve_the_next_ones() -> None:
    assert count_faults() == [True, pytest.approx(0, abs=100)]


@pytest.mark.slow
def test_what_the_user_chose_for_the_c_library_holds() -> None:
    kept, faults = count_faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert not kept and faults > 1000
