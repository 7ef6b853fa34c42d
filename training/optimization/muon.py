"""Muon for the matrices of a model's layers and AdamW for its other parameters, as one optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from ...modeling.core.attention import PlaitAttention
from ...modeling.core.layers import PlaitMLP
from ...modeling.core.transformer import PlaitLayer
from ..parameters import parameter_groups
from .arguments import MUON, PlaitTrainingArguments
from .polar_express import PolarExpressMuon

DENOISER = "denoiser"


class MuonWithAdamW(Optimizer):
    """An optimizer that updates some groups by Muon and the others by AdamW, with torch's own of both.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) takes the nearest orthogonal matrix to the
    momentum as the update of a matrix; scaled to the root mean square of AdamW's updates (Liu et al. 2025,
    https://arxiv.org/abs/2502.16982, equation 4), so that both share learning rates.

    Args:
        groups: as for any torch optimizer; those whose key `muon` is True hold matrices.
        betas, eps: of AdamW.
        steps: of `PolarExpressMuon`, which replaces torch's Muon; None: torch's.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], betas: tuple[float, float], eps: float, steps: int | None = None
    ) -> None:
        own = {True: [], False: []}
        for group in groups:
            own[group["muon"]].append(group)
        # each constructor adds its defaults to its own groups
        self.optimizers: dict[bool, Optimizer] = {}
        if own[False]:
            self.optimizers[False] = AdamW(own[False], betas=betas, eps=eps, fused=True)
        if own[True]:
            torchs = steps is None
            self.optimizers[True] = (
                Muon(own[True], adjust_lr_fn="match_rms_adamw") if torchs else PolarExpressMuon(own[True], steps)
            )
        super().__init__([group for part in self.optimizers.values() for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for by_muon, optimizer in self.optimizers.items():
            # loading a state replaces groups and states, so that both are handed on at every step
            optimizer.param_groups = [group for group in self.param_groups if group["muon"] is by_muon]
            optimizer.state = self.state
            optimizer.step()
        return loss


def build_muon(model: nn.Module, args: PlaitTrainingArguments) -> MuonWithAdamW:
    """Builds the optimizer of `optim: muon`, with the groups of `parameter_groups`, whose matrices have groups of their
    own (see `find_matrices`).

    Raises ValueError for a model without trainable matrices in its layers.
    """
    groups = parameter_groups(model, args.part_rates, args.weight_decay, args.learning_rate)
    matrices = {id(matrix) for matrix in find_matrices(model)}
    if not matrices:
        raise ValueError(
            f"optim is {MUON!r}, but {type(model).__name__} has no trainable matrices in layers of plait's own "
            "transformer (an adapter's are none): unfreeze such a part, or choose another optim"
        )
    split = [part for group in groups for part in split_group(group, matrices, args.muon_learning_rate)]
    return MuonWithAdamW(split, (args.adam_beta1, args.adam_beta2), args.adam_epsilon, args.muon_steps)


def split_group(group: dict[str, Any], matrices: set[int], rate: float | None) -> list[dict[str, Any]]:
    """Splits a group into that of AdamW and that of Muon, without empty ones. rate: learning rate of the matrices."""
    parameters = {by_muon: [p for p in group["params"] if (id(p) in matrices) is by_muon] for by_muon in (False, True)}
    rates = {} if rate is None else {"lr": float(rate)}
    return [
        {**group, **(rates if by_muon else {}), "params": own, "muon": by_muon}
        for by_muon, own in parameters.items()
        if own
    ]


def find_matrices(model: nn.Module) -> list[Tensor]:
    """Returns the trainable matrices of attention and MLPs in the layers of the denoiser, or without a trainable one in
    the layers of all of plait's transformers; those of norms, modulations, embeddings and adapters are left out."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, PlaitLayer)}
    found = {name: list_layer_matrices(layer) for name, layer in layers.items()}
    own = [matrix for name, matrices in found.items() if DENOISER in name.split(".") for matrix in matrices]
    return own or [matrix for matrices in found.values() for matrix in matrices]


def list_layer_matrices(layer: PlaitLayer) -> list[Tensor]:
    """Returns the trainable matrices of a layer's attention and MLP."""
    functions = [module for module in layer.children() if isinstance(module, PlaitAttention | PlaitMLP)]
    linear = [module for function in functions for module in function.children() if isinstance(module, nn.Linear)]
    return [module.weight for module in linear if module.weight.requires_grad]
