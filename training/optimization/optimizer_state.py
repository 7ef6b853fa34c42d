"""The optimizer's state of checkpoints that hold a parameter in an earlier shape."""

import torch
from torch import Tensor


def fit_states_to_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Gives averages of a single number the shape of their parameter, as a hook after loading a state: the temperature
    of similarities was a scalar, and has the shape (1,) now."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if name != "step" and isinstance(value, Tensor) and value.numel() == parameter.numel() == 1:
                state[name] = value.reshape(parameter.shape)
