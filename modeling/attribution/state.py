"""Leaves the model as it was: what an explanation switches is switched back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def explained(model: Any) -> Iterator[None]:
    """Puts the model into eval mode without gradients for its weights inside this block; modes, gradients and the
    states of the random generators are as before at its end."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    numbers: Any = np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        try:
            nn.Module.train(model, mode=False)
            for parameter in trained:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter in trained:
                parameter.requires_grad_(True)
            np.random.set_state(numbers)
