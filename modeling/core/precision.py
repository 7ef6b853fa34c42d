"""The dtype in which a module computes."""

from torch import Tensor, nn


def cast_to_module(x: Tensor, module: nn.Module) -> Tensor:
    """Casts x to the dtype of the module's first floating-point parameter; without one (all of them quantized to
    integers) x stays as it is."""
    dtypes = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return x.to(next(dtypes, x.dtype))
