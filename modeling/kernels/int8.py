"""Products of int8 by oneDNN on a CPU, for layers whose weights torchao rounded to int8 and whose inputs it rounds as
they come (`int8_dynamic`).

torchao's own product goes through a subclass of tensors, which takes longer than the product itself for layers of a few
hundred outputs. The kernel computes the same up to rounding: each row of the input is rounded to q_i with a scale of
its own, s_i = max_j |x_ij| / 127 (torchao: 127.5, which cuts the largest value off), and y_i = s_i (q_i W_q^T) s_w + b,
the sum in int32.
"""

import operator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .install import ForwardKernel, install_kernel, is_replaceable

LARGEST = 127
ZERO = 128  # the products are of uint8 and int8
SMALLEST_SCALE = torch.finfo(torch.float32).eps


class RoundedRows(NamedTuple):
    """An input, (..., width), of which each row is rounded.

    rows: q + 128 as uint8, (rows, width); scales: (rows, 1); shape: the input's, without its width.
    """

    rows: Tensor
    scales: Tensor
    shape: torch.Size


def round_rows(input: Tensor) -> RoundedRows:
    """Rounds each row of an input, (..., width), to int8 with a scale of its own."""
    x = input.reshape(-1, input.shape[-1])
    scales = torch.maximum(x.amax(dim=1, keepdim=True), -x.amin(dim=1, keepdim=True))
    scales = scales.div_(LARGEST).clamp_(min=SMALLEST_SCALE)
    rounded = (x * scales.reciprocal()).round_().to(torch.int8)
    return RoundedRows(rounded.bitwise_xor_(-ZERO).view(torch.uint8), scales, input.shape[:-1])


class Int8Linear(ForwardKernel):
    """A layer's int8 weight in oneDNN's layout, which is made at the first call: one copy of its int8 values. With
    gradients, on another device, for inputs other than float32, in compiled code, and where the weight was replaced
    since, the class's own `forward` is used."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear, self.weight = linear, linear.weight
        self.packed: Any = None
        self.source: tuple[tuple[Tensor, ...], tuple[int, ...]] | None = None

    def __call__(self, input: Tensor) -> Tensor:
        """Maps input: (..., width) to (..., outputs)."""
        return self.multiply(round_rows(input)) if self.fits(input) else type(self.linear).forward(self.linear, input)

    def fits(self, input: Tensor) -> bool:
        """Returns whether the kernel may compute the product of an input with the layer's weight."""
        return self.linear.weight is self.weight and is_int8_input(input, self.weight)

    def multiply(self, input: RoundedRows) -> Tensor:
        """Computes the layer's output, (..., outputs), of an input that is rounded."""
        self.pack()
        product, bias = multiply_int8(input.rows, *self.packed), self.linear.bias
        if bias is None:
            product.mul_(input.scales)
        else:
            torch.addcmul(bias.float(), product, input.scales, out=product)
        return product.view(*input.shape, -1)

    def pack(self) -> None:
        """Copies the weight into oneDNN's layout, unless the copy is of the values that it has."""
        weight: Any = self.weight
        parts = (weight.qdata, weight.scale)
        versions = tuple(0 if part.is_inference() else part._version for part in parts)
        if self.source is None or self.source[1] != versions or any(map(operator.is_not, self.source[0], parts)):
            # oneDNN takes any layout for a contiguous one
            scales = weight.scale.detach().reshape(-1).float().contiguous()
            packed = torch.ops.onednn.qlinear_prepack(weight.qdata.detach().contiguous(), None)
            self.packed = (packed, scales, torch.zeros(len(scales), dtype=torch.long))
            self.source = (parts, versions)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the packed weight, which cannot be copied: a copy of the model packs its own."""
        return {**self.__dict__, "packed": None, "source": None}


def multiply_int8(rows: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Computes (q - 128) W_q^T s_w in float32; rows: uint8, (rows, width); scales, zeros: (outputs,)."""
    return torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, ZERO, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def is_int8_input(input: Tensor, weight: Any) -> bool:
    """Returns whether the kernel may compute the product of an input with a weight."""
    plain = input.dtype == weight.dtype == torch.float32 and input.device.type == weight.device.type == "cpu"
    inference = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return plain and inference and input.numel() > 0 and not torch.compiler.is_compiling()


def rounds_rows(weight: Any) -> bool:
    """Returns whether a weight is one of torchao's in int8 with a scale for each of its rows, whose layer's input gets
    one for each of its rows, both without a zero point."""
    options = getattr(weight, "act_quant_kwargs", None)
    if type(weight).__name__ != "Int8Tensor" or options is None or weight.qdata.ndim != 2:
        return False
    by_row = weight.scale.numel() == len(weight.qdata) and type(options.granularity).__name__ == "PerRow"
    shifted = options.mapping_type.name != "SYMMETRIC" or (
        weight.zero_point is not None and bool(weight.zero_point.any())
    )
    narrow = options.reduce_range or weight.reduce_range
    fixed = weight.act_quant_scale is not None or weight.act_pre_scale is not None
    return by_row and not shifted and not narrow and not fixed


@cache
def has_int8_products() -> bool:
    """Returns whether oneDNN is there, and this processor sums products of int8 in 32 bits (AVX-512 VNNI): others do so
    in 16, which may overflow."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


def install_int8_kernels(model: nn.Module) -> int:
    """Installs the kernel in every layer that it fits; returns their number."""
    if not has_int8_products():
        return 0
    fitting = [
        module
        for module in model.modules()
        if type(module) is nn.Linear and is_replaceable(module) and rounds_rows(module.weight)
    ]
    for module in fitting:
        install_kernel(module, Int8Linear(module))
    return len(fitting)
