"""The processes that a launcher (torchrun, accelerate launch) has started together."""

import os

import torch
from accelerate import PartialState


def join_processes() -> PartialState:
    """Returns this process's place among those of a launcher; without an accelerator they join on the CPU, which
    accelerate does only if it is told so."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return PartialState(cpu=True) if launched and not torch.accelerator.is_available() else PartialState()
