"""The log of the single losses of a model with several, averaged between two logged steps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.trainer_utils import unwrap_peft_model

from ...modeling.backbone.pretrained import PlaitPreTrainedModel


class LossSums(NamedTuple):
    """The losses since the last `LossLog.take`. total: (losses,) sums; count: (losses,) number of summands."""

    total: Tensor
    count: Tensor


class LossLog:
    """The single losses of a model with several, in the order of its `loss_names`, summed until `take` resets them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.sums: LossSums | None = None

    def update(self, outputs: Any) -> None:
        """Adds the losses of a batch's outputs."""
        losses: Mapping[str, Tensor] = outputs["losses"]
        zero = outputs["loss"].new_zeros(())
        values = torch.stack([losses.get(name, zero).detach().float() for name in self.names])
        count = torch.tensor([float(name in losses) for name in self.names], device=values.device)
        before = self.sums or LossSums(torch.zeros_like(values), torch.zeros_like(count))
        self.sums = LossSums(before.total + values, before.count + count)

    def take(self, gather: Any) -> dict[str, float]:
        """Returns `{"loss_NAME": mean}` over all processes since the last call, and resets the sums.

        gather: concatenates the tensors of all processes along their first dimension.
        """
        if self.sums is None:
            return {}
        total, count = (gather(value[None]).sum(0).tolist() for value in self.sums)
        self.sums = None
        found = zip(self.names, total, count, strict=True)
        return {f"loss_{name}": value / number for name, value, number in found if number}


def build_loss_log(model: nn.Module) -> LossLog | None:
    """Builds the log of a model whose outputs may hold several `losses`; None for a model with one loss."""
    inner = unwrap_peft_model(model)
    return LossLog(inner.loss_names) if isinstance(inner, PlaitPreTrainedModel) and inner.loss_names else None
