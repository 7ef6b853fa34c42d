"""The quantizer of models with weights of torchao: transformers' own, which also says whether adapters beside these
weights can be trained, and makes them weights of the model's dtype again."""

from functools import cache
from typing import Any

import torch
from torch import nn

# torchao's configs whose layers pass gradients to their input
TRAINABLE = ("Int8WeightOnlyConfig", "IntxWeightOnlyConfig", "Float8WeightOnlyConfig")


def build_quantizer(config: Any) -> Any:
    """Returns the quantizer of a `TorchAoConfig`."""
    return build_quantizer_class()(config, pre_quantized=True)


@cache
def build_quantizer_class() -> Any:
    """Returns the class of the quantizer, a subclass of transformers', which is imported only with torchao."""
    from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

    class PartsQuantizer(TorchAoHfQuantizer):
        @property
        def is_trainable(self) -> bool:
            kind = self.quantization_config.quant_type
            kinds = getattr(kind, "fqn_to_config", {"": kind}).values()
            return all(type(each).__name__ in TRAINABLE for each in kinds)

        def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
            dequantize_layers(model, dtype)
            self.remove_quantization_config(model)
            return model

    return PartsQuantizer


def dequantize_layers(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Replaces the weights of torchao by plain ones of the same values, of this dtype or that of the model."""
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) and type(weight).__module__.startswith("torchao"):
            module.weight = nn.Parameter(weight.dequantize().to(dtype or weight.dtype))
            module.__dict__.pop("extra_repr", None)
