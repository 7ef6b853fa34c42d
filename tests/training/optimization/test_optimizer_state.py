"""States of an optimizer that hold a parameter of one number in an earlier shape."""

import pytest
import torch

from plait.training.optimization.optimizer_state import fit_states_to_parameters


def build_optimizer(*shapes: tuple[int, ...]) -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(("saved", "present"), [((), (1,)), ((1,), ()), ((1, 1), (1,))])
def test_averages_of_a_single_number_take_the_shape_of_their_parameter(
    saved: tuple[int, ...], present: tuple[int, ...]
) -> None:
    optimizer = build_optimizer(present, (2,))
    single, pair = optimizer.state.values()
    single["exp_avg"], single["exp_avg_sq"] = torch.full(saved, 3.0), torch.full(saved, 4.0)
    single["note"] = "text"
    kept = {name: pair[name] for name in pair}
    fit_states_to_parameters(optimizer)
    assert single["exp_avg"].shape == single["exp_avg_sq"].shape == present
    assert single["exp_avg"].item() == 3.0 and single["exp_avg_sq"].item() == 4.0
    assert single["step"].shape == () and single["note"] == "text"
    assert all(pair[name] is kept[name] for name in kept)
