"""The temperature and bias of similarities in files: scalars there, as in CLIP, but of shape (1,) in the model, since
FSDP shards no scalar."""

from functools import cache
from typing import Any

from torch import Tensor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

from ...configuration import PlaitConfig

SCALAR_WEIGHTS = ("similarity.logit_scale", "similarity.logit_bias")


class Reshaped(ConversionOps):
    """Gives a tensor of one number the shape `shape`; `file_shape` is that of its inverse."""

    def __init__(self, shape: tuple[int, ...], file_shape: tuple[int, ...]) -> None:
        self.shape, self.file_shape = shape, file_shape

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Returns the one tensor, reshaped, under the name of its target."""
        (tensors,) = input_dict.values()
        tensor: Tensor = tensors[0] if isinstance(tensors, list) else tensors
        return {target_patterns[0]: tensor.reshape(self.shape)}

    @property
    def reverse_op(self) -> ConversionOps:
        """The op that undoes this one, for saving."""
        return Reshaped(self.file_shape, self.shape)


@cache
def register_scalar_weights() -> None:
    """Makes transformers read the scalars of a folder as vectors of length 1, and write them as scalars."""
    converters: Any = [WeightConverter(name, name, [Reshaped((1,), ())]) for name in SCALAR_WEIGHTS]
    register_checkpoint_conversion_mapping(PlaitConfig.model_type, converters, overwrite=True)
