"""How much each tower learns: its share of the gradient, and a switch that evens it out."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import unwrap_peft_model

from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...modeling.outputs import PlaitModelOutput, TowerOutput
from ...modeling.tasks.classification import PlaitForClassification
from ..data.labels import MULTI, REGRESSION
from ..parameters import unwrap_plait


class GradientShares(TrainerCallback):
    """The share of each tower in the towers' gradients, the mean over the steps since it was last taken:

        share of m = |g_m| / sum over towers n of |g_n|

    with the Euclidean norm over all of a tower's parameters. A tower without gradients has a share of 0.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.steps = 0

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if model is None:
            return
        for modality, share in compute_gradient_shares(model).items():
            self.sums[modality] += share
        self.steps += 1

    def take(self) -> dict[str, float]:
        """`{"gradient_share_text": ...}`, and begin anew."""
        taken = {f"gradient_share_{modality}": value / self.steps for modality, value in self.sums.items()}
        self.sums.clear()
        self.steps = 0
        return taken


def compute_gradient_shares(model: nn.Module) -> dict[str, float]:
    """By modality, adding up to 1; all 0 where no tower has a gradient."""
    norms = {}
    for modality, tower in unwrap_plait(model).towers.items():
        gradients = [parameter.grad for parameter in tower.parameters() if parameter.grad is not None]
        norms[modality] = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
    total = sum(norms.values())
    return {modality: norm / total if total else 0.0 for modality, norm in norms.items()}


class GradientModulation(TrainerCallback):
    """OGM-GE (Peng et al. 2022, https://arxiv.org/abs/2203.15332, equations 8 to 12): the tower of a modality that
    answers better than the others learns less in that step, and noise makes up for what its gradient lost.

    With s_m the mean probability that a batch's right classes get from modality m alone, g_m the gradient of its tower:

        rho_m = s_m / (mean of s_n over the others n)
        k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1
        g_m = k_m g_m + h,  h ~ N(0, variance of the numbers in g_m) for each weight, where there is `noise`

    The paper has two modalities and logits that are a sum; here the fusion reads the modality alone (all others
    absent, no dropout), which every fusion can, from the tower outputs of the step: no tower runs twice. It acts on
    what gradient clipping left.

    Raises:
        ValueError: alpha not above 0, or a model that does not choose one class from several modalities.
    """

    def __init__(self, model: nn.Module, alpha: float, noise: bool, seed: int) -> None:
        inner: Any = unwrap_peft_model(model)
        if alpha <= 0:
            raise ValueError(f"ogm_alpha is {alpha}: expected more than 0")
        if not isinstance(inner, PlaitForClassification) or inner.config.problem_type in (REGRESSION, MULTI):
            raise ValueError(f"ogm_alpha is {alpha}, but {type(inner).__name__} does not choose one class")
        self.model, self.alpha, self.noise, self.seed = inner, alpha, noise, seed
        self.modalities = tuple(inner.model.towers)
        if len(self.modalities) < 2:
            raise ValueError(f"ogm_alpha is {alpha}, but there is one tower alone: nothing to balance")
        self.tower_outputs: Mapping[str, TowerOutput] = {}
        self.scores = torch.zeros(len(self.modalities), 2)

    @contextmanager
    def watch_towers(self) -> Iterator[None]:
        """Sees what the towers make of the batches that the model reads meanwhile."""
        hook = self.model.model.register_forward_hook(self.store_tower_outputs)
        try:
            yield
        finally:
            hook.remove()

    def store_tower_outputs(self, module: nn.Module, inputs: Any, output: PlaitModelOutput) -> None:
        """Keep what the towers made of the batch."""
        self.tower_outputs = output.encoder_outputs or {}

    @torch.no_grad()
    def update_scores(self, labels: Tensor) -> None:
        """labels: (batch,) of the batch that the model has just read. Adds up each modality's probabilities."""
        seen, self.tower_outputs = self.tower_outputs, {}
        training = self.model.training
        self.model.eval()
        for number, modality in enumerate(self.modalities):
            if modality in seen:
                found = compute_unimodal_probabilities(self.model, modality, seen[modality], labels)
                self.scores[number] += torch.stack((found.sum().cpu(), torch.tensor(float(len(found)))))
        self.model.train(training)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scores, self.scores = sum_over_processes(self.scores, next(self.model.parameters()).device), self.scores * 0
        means = {m: float(total / count) for m, (total, count) in zip(self.modalities, scores, strict=True) if count}
        for modality, factor in compute_coefficients(means, self.alpha).items():
            modulate_gradients(
                self.model.model.towers[modality], factor, self.build_generator(state.global_step, modality)
            )

    def build_generator(self, step: int, modality: str) -> torch.Generator | None:
        """The same in every process, so that their weights stay the same."""
        if not self.noise:
            return None
        device = next(self.model.parameters()).device
        number = self.modalities.index(modality)
        return torch.Generator(device).manual_seed((self.seed * 1_000_003 + step) * 8 + number)


def compute_unimodal_probabilities(model: nn.Module, modality: str, output: TowerOutput, labels: Tensor) -> Tensor:
    """What the right classes get from one modality alone, in the rows that have it and a label: (rows,)."""
    rows = output.mask.bool().any(dim=1) & (labels != IGNORE_INDEX)
    if not rows.any():
        return labels.new_zeros(0, dtype=torch.float)
    alone = {"last_hidden_state": output.last_hidden_state.detach()[rows], "mask": output.mask[rows]}
    logits = model(encoder_outputs={modality: alone}).logits.float()
    return logits.softmax(dim=-1).gather(1, labels[rows][:, None])[:, 0]


def compute_coefficients(scores: Mapping[str, float], alpha: float) -> dict[str, float]:
    """k by modality, from the mean probabilities; nothing where one modality alone has any."""
    found = {}
    for modality, score in scores.items():
        others = [value for other, value in scores.items() if other != modality]
        if others:
            ratio = score * len(others) / max(sum(others), torch.finfo(torch.float).tiny)
            found[modality] = 1 - float(torch.tensor(alpha * ratio).tanh()) if ratio > 1 else 1.0
    return found


def modulate_gradients(tower: nn.Module, factor: float, generator: torch.Generator | None) -> None:
    """Scale a tower's gradients, and add noise as wide as they were where there is a generator."""
    for parameter in tower.parameters():
        gradient = parameter.grad
        if gradient is None:
            continue
        noise = None
        if generator is not None and gradient.numel() > 1:
            drawn = torch.randn(gradient.shape, generator=generator, device=gradient.device, dtype=torch.float)
            noise = drawn.to(gradient.dtype) * gradient.std()
        gradient.mul_(factor)
        if noise is not None:
            gradient.add_(noise)


def sum_over_processes(values: Tensor, device: torch.device) -> Tensor:
    """The sum over all processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values = values.to(device)
        torch.distributed.all_reduce(values)
    return values.cpu()
