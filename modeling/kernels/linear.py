"""Linear layers on a CPU for inference: each product by the kernel that is fastest for its size on this machine.

torch's `linear` calls MKL or oneDNN, whichever was built in, for every size; on some processors, and for a few rows or
the width of a vocabulary, another kernel takes half the time. None of these copies or changes a weight, none has a
gradient, and all give the same numbers up to rounding. Which is the fastest is measured once (see `autotune`).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from .autotune import is_autotuning, recall_choice, select_fastest
from .plain import is_plain_tensor, is_watched

Activation = tuple[str, str]  # a function that oneDNN computes with a product, and its form
LinearKernel = Callable[[Tensor, Tensor, Tensor | None], Tensor]

NO_ACTIVATION = ("none", "")
LARGE_WEIGHT = 2**18  # for smaller weights the call costs more than the product,
LARGE_PRODUCT = 2**23  # unless this many multiplications make up for it
ROW_COUNTS = (1, 2, 4, 8, 16, 64, 256)  # a product is computed as one of the next larger number, or of the last
LINEAR_PROBE_WORK = 2**28  # multiplications in a probe of many rows; wider layers are probed with fewer rows
PROBED_BYTES = 2**27  # of the weights that a probe of few rows reads: more than the caches of a processor hold
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # a processor without products of 16 bits emulates them


def torch_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x W^T + b by torch's own kernel."""
    return F.linear(x, weight, bias)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = NO_ACTIVATION) -> Tensor:
    """Computes act(x W^T + b) by oneDNN, by a kernel without a public name that takes any bias for contiguous."""
    name, form = activation
    whole = bias if bias is None else bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, whole, name, [], form)


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x W^T + b as (W x^T + b)^T, so that the rows of the product are the many rows of W."""
    rows = x.reshape(-1, x.shape[-1]).T
    product = weight @ rows if bias is None else torch.addmm(bias[:, None], weight, rows)
    return product.T.contiguous().view(*x.shape[:-1], len(weight))


def doubled_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x W^T + b for one row as for two equal ones: a product of matrices reads W faster than one with a
    vector."""
    row = x.reshape(1, -1)
    return few_rows_linear(torch.cat((row, row)), weight, bias)[:1].view(*x.shape[:-1], len(weight))


def halved_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x W^T + b for one row as a batch of two products, each with one half of W: MKL's kernel for a batch
    reads W at the memory's rate, the one for a single product at half of it. Of an odd number of outputs, the one in
    the middle is computed twice."""
    outputs, width = weight.shape
    half = (outputs + 1) // 2
    halves = weight.as_strided((2, half, width), ((outputs - half) * weight.stride(0), *weight.stride()))
    columns = x.contiguous().as_strided((2, width, 1), (0, 1, width))  # x, twice
    product = torch.bmm(halves, columns)
    if outputs % 2:
        product = torch.cat((product[0], product[1, 1:]))
    product = product.view(*x.shape[:-1], outputs)
    return product if bias is None else product.add_(bias)


def float32_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x W^T + b in float32 and rounds it to the dtype of x."""
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def has_onednn_kernel(dtype: torch.dtype) -> bool:
    """Returns whether oneDNN multiplies in this dtype on this machine (bfloat16 needs AVX-512 or AVX-NE-CONVERT)."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def list_kernels(rows: int, dtype: torch.dtype) -> Mapping[str, LinearKernel]:
    """Lists by name the kernels for products of so many rows in this dtype, torch's first."""
    kernels: dict[str, LinearKernel] = {"torch": torch_linear}
    if has_onednn_kernel(dtype):
        kernels["onednn"] = onednn_linear
    if dtype != torch.float32:
        return kernels | {"float32": float32_linear}
    if rows == 1:
        return kernels | {"doubled": doubled_linear, "halved": halved_linear}
    return kernels | ({"few_rows": few_rows_linear} if rows <= 8 else {})


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes x W^T + b without a gradient; x: (..., width), weight: (outputs, width), bias: (outputs,)."""
    return select_kernel(x, weight)(x, weight, bias)


class ChosenLinear:
    """Computes x W^T + b from one weight as `linear` does, but selects the kernel once for each number of rows: for a
    caller that makes a new one when `is_choosing` changes."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.kernels: dict[int, LinearKernel] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x: (rows, width) to (rows, outputs)."""
        kernel = self.kernels.get(len(x))
        if kernel is None:
            kernel = self.kernels[len(x)] = select_kernel(x, self.weight)
        return kernel(x, self.weight, self.bias)


def select_kernel(x: Tensor, weight: Tensor) -> LinearKernel:
    """Returns the fastest kernel for x W^T; torch's if `may_choose` says that no other may be used."""
    if not may_choose(x, weight):
        return torch_linear
    (outputs, width), rows = weight.shape, x.numel() // x.shape[-1]
    rows = next((count for count in ROW_COUNTS if rows <= count), ROW_COUNTS[-1])
    name = str(x.dtype).removeprefix("torch.")
    choice = recall_choice(
        f"linear {outputs} x {width}, {rows} rows, {name}", lambda: probe_linear(outputs, width, rows, x.dtype)
    )
    return list_kernels(rows, x.dtype).get(choice, torch_linear)


def may_choose(x: Tensor, weight: Tensor) -> bool:
    """Returns whether x W^T may be computed by another kernel than torch's: it is large enough to gain, on a CPU, of
    plain tensors of one dtype, and kernels are chosen now (`is_choosing`)."""
    if not is_plain_tensor(x) or not is_choosing():
        return False
    if x.dim() < 2 or not x.numel() or not is_large(weight, x.numel() // x.shape[-1]):
        return False
    same = x.dtype == weight.dtype and x.device.type == weight.device.type == "cpu"
    return same and x.dtype in KERNEL_DTYPES


def is_choosing() -> bool:
    """Returns whether kernels are chosen now: nothing watches torch's operations, there is no autocast, and nothing
    turns the choice off (`is_autotuning`)."""
    return not is_watched() and not torch.is_autocast_enabled("cpu") and is_autotuning()


def is_large(weight: Tensor, rows: int = 1) -> bool:
    """Returns whether a product of so many rows with the weight takes so long that the choice of its kernel counts."""
    size = weight.numel()
    return size >= LARGE_WEIGHT or rows * size >= LARGE_PRODUCT


def probe_linear(outputs: int, width: int, rows: int, dtype: torch.dtype) -> str:
    """Measures the kernels for a product of this size and returns the name of the fastest."""
    size = outputs * width
    rows = min(rows, max(ROW_COUNTS[-2], LINEAR_PROBE_WORK // size))
    count = max(1, PROBED_BYTES // (size * dtype.itemsize)) if rows < ROW_COUNTS[-2] else 1
    # no random numbers: they would advance the generator that the user seeded
    weights, x, bias = torch.ones(count, outputs, width, dtype=dtype), torch.ones(rows, width, dtype=dtype), None
    kernels = {
        name: lambda kernel=kernel: [kernel(x, weight, bias) for weight in weights]
        for name, kernel in list_kernels(rows, dtype).items()
    }
    return select_fastest(kernels)
