"""The quantizer of models with weights of torchao: transformers' own, which also lets what is beside these weights be
trained, and makes them weights of the model's dtype again."""

from functools import cache
from typing import Any

import torch
from torch import nn

from ..kernels.install import remove_kernels
from ..kernels.int8 import Int8Linear

# torchao's weights whose layers pass gradients to their input, if the input is not quantized too
DIFFERENTIABLE = ("Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor")


def build_quantizer(config: Any) -> Any:
    """Returns the quantizer of a `TorchAoConfig`."""
    return build_quantizer_class()(config, pre_quantized=True)


@cache
def build_quantizer_class() -> Any:
    """Returns the class of the quantizer, a subclass of transformers', which is imported only with torchao."""
    from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

    base: Any = TorchAoHfQuantizer

    class PartsQuantizer(base):
        # adapters, heads and other parts are trained, and a Trainer also evaluates: `blocks_gradients` says what cannot
        is_trainable = is_qat_trainable = True

        def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
            dequantize_layers(model, dtype)
            self.remove_quantization_config(model)
            return model

    return PartsQuantizer


def blocks_gradients(weight: Any) -> bool:
    """Returns whether no gradient passes through a layer with this weight of torchao to the layer's input."""
    rounds_input = getattr(weight, "act_quant_kwargs", None) is not None
    return type(weight).__module__.startswith("torchao") and (
        rounds_input or type(weight).__name__ not in DIFFERENTIABLE
    )


def dequantize_layers(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Replaces the weights of torchao by plain ones of the same values, of this dtype or that of the model."""
    remove_kernels(model, Int8Linear)
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) and type(weight).__module__.startswith("torchao"):
            module.weight = nn.Parameter(weight.dequantize().to(dtype or weight.dtype))
            module.__dict__.pop("extra_repr", None)
