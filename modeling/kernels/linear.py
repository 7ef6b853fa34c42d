"""Linear layers on a CPU for inference, in shapes for which torch chooses a slow kernel.

torch's `linear` calls MKL, which for two to eight rows, and for the width of a vocabulary, may take twice the time of
the kernels here. They need no copy of the weight, have no gradient, and give the same numbers up to rounding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FEW_ROWS = 8
LARGE_WEIGHT = 2**18  # for smaller weights the call costs more than the product
WIDE_OUTPUT = 2**13


def has_linear_kernel(weight: Tensor) -> bool:
    """Returns whether `linear` may use another kernel than torch for this weight: large, float32, on a CPU."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LARGE_WEIGHT


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes x W^T + b without a gradient; x: (..., width), weight: (outputs, width), bias: (outputs,)."""
    if not has_linear_kernel(weight) or x.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    if 1 < rows <= FEW_ROWS:
        return few_rows_linear(x, weight, bias)
    if rows > FEW_ROWS and len(weight) >= WIDE_OUTPUT and torch.backends.mkldnn.is_available():
        # oneDNN's matrix product: torch has no public name for it
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x W^T + b as (W x^T + b)^T, so that the rows of the product are the many rows of W."""
    rows = x.reshape(-1, x.shape[-1]).T
    product = weight @ rows if bias is None else torch.addmm(bias[:, None], weight, rows)
    return product.T.contiguous().view(*x.shape[:-1], len(weight))
