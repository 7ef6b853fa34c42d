"""The parts of a layer against their formulas."""

import pytest
import torch

from plait.modeling.core.layers import build_activation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_quick_gelu_is_its_formula_with_and_without_a_gradient(dtype: torch.dtype) -> None:
    act = build_activation("quick_gelu")
    x = torch.cat((torch.linspace(-60, 60, 4001), torch.tensor([0.0, -1e4, 1e4]))).to(dtype)
    exact = x.double() * torch.sigmoid(1.702 * x.double())
    tolerance = 4 * torch.finfo(dtype).eps
    with torch.no_grad():
        given = x.clone()
        torch.testing.assert_close(act(given).double(), exact, atol=tolerance, rtol=tolerance)
        assert torch.equal(given, x)
    trained = x.double().requires_grad_()
    torch.autograd.gradcheck(act, trained[::100])
    torch.testing.assert_close(act(x.clone().requires_grad_()).double(), exact, atol=tolerance, rtol=tolerance)
