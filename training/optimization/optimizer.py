"""Builds the optimizers of transformers with groups by part of the model."""

from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers.trainer_optimizer import is_optimizer_factory

from ..parameters import parameter_groups
from .arguments import PlaitTrainingArguments
from .optimizer_state import fit_states_to_parameters


def build_optimizer(
    model: nn.Module, args: PlaitTrainingArguments, chosen: Any, options: dict[str, Any]
) -> Optimizer | None:
    """Builds an optimizer of the class `chosen` with the groups of `parameter_groups`; None if it has its own groups.

    Raises ValueError for learning rates by part with such an optimizer.
    """
    if is_optimizer_factory(chosen) or {"params", "model", "optimizer_dict"} & set(options):
        given = next((name for name in ("learning_rates", "layer_decay") if getattr(args, name)), None)
        if given is not None:
            raise ValueError(
                f"{given} cannot be used with {chosen.__name__}, which builds its own parameter groups: "
                f"leave {given} out, or choose another optimizer"
            )
        return None
    groups = parameter_groups(model, args.part_rates, args.weight_decay, args.learning_rate, args.layer_decay)
    optimizer = chosen(groups, **options)
    optimizer.register_load_state_dict_post_hook(fit_states_to_parameters)
    return optimizer
