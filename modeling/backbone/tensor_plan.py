"""The plan of tensor parallelism: the linear layers that processes share, each with some of the heads and of the hidden
units of an MLP (Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053, section 3)."""

import re
from typing import Any

from torch import nn

from ..core.attention import PlaitAttention, PlaitGridAttention
from ..core.layers import PlaitMLP

LAYER_NUMBER = re.compile(r"\.\d+(?=\.|$)")  # for which transformers writes a star
SPLITS_OUTPUT, SPLITS_INPUT, COPIED = "colwise", "rowwise", "replicated_with_grad_allreduce"
ATTENTION_PLAN = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), SPLITS_OUTPUT),
    "o_proj": SPLITS_INPUT,
    **dict.fromkeys(("q_norm", "k_norm"), COPIED),  # each process has the gradient of its own heads
}
MLP_PLAN = {"up_proj": SPLITS_OUTPUT, "gate_proj": SPLITS_OUTPUT, "down_proj": SPLITS_INPUT}


def build_tensor_plan(model: nn.Module) -> dict[str, str]:
    """Returns the style of each shared layer by its name, with a star for the number of a layer; all else is copied.

    Layers whose scores have a bias for each head (patches of a grid, decays) are copied, and so are those of wrapped
    towers.
    """
    plan: dict[str, str] = {}
    for name, module in model.named_modules():
        styles = choose_styles(module)
        plan |= {f"{LAYER_NUMBER.sub('.*', name)}.{part}": style for part, style in styles.items()}
    return plan


def choose_styles(module: nn.Module) -> dict[str, str]:
    """Returns the styles of the parts of a module that have weights; none of a module that is copied."""
    plan: dict[str, str] = {}
    if isinstance(module, PlaitAttention):
        biased = isinstance(module, PlaitGridAttention) or module.config.relative_decay is not None
        plan = {} if biased else ATTENTION_PLAN
    elif isinstance(module, PlaitMLP):
        plan = MLP_PLAN
    parts = dict(module.named_children())
    return {
        name: style
        for name, style in plan.items()
        if name in parts and next(parts[name].parameters(), None) is not None
    }


def gathers_rows(config: Any) -> bool:
    """Returns whether the processes of a model have rows of their own, which a loss over the whole batch gathers: those
    that share its layers all have the same rows."""
    return count_tensor_processes(config) == 1


def count_tensor_processes(config: Any) -> int:
    """Returns the number of processes that share a model's layers, which all have the same rows."""
    return getattr(getattr(config, "distributed_config", None), "tp_size", None) or 1


def check_tensor_plan(model: nn.Module, config: Any) -> None:
    """Raises ValueError if the processes of tensor parallelism cannot share the heads or the MLP of a layer evenly."""
    processes = count_tensor_processes(config)
    for name, module in model.named_modules() if processes > 1 else ():
        sizes = {}
        if isinstance(module, PlaitAttention) and choose_styles(module):
            sizes = {size: getattr(module.config, size) for size in ("num_attention_heads", "num_key_value_heads")}
        elif isinstance(module, PlaitMLP):
            sizes = {"intermediate_size": module.up_proj.out_features}
        for size, count in sizes.items():
            if count % processes:
                raise ValueError(
                    f"tp_size is {processes}, but {name} has {size} {count}: choose a tp_size that divides it, or "
                    "share the model otherwise (FSDP)"
                )
