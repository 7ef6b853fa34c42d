"""Balance of the towers in training: the share of each tower in the gradient, and gradient modulation (OGM-GE)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import unwrap_peft_model

from ...modeling.adaptation.fresh import unwrap_plait
from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...modeling.outputs import PlaitModelOutput, TowerOutput
from ...modeling.tasks.classification import PlaitForClassification
from ..data.labels import MULTI, REGRESSION


class GradientShares(TrainerCallback):
    """The share of each tower in the towers' gradients, averaged over the steps since the last `take`:

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
        """Adds the shares of this step."""
        if model is None:
            return
        for modality, share in compute_gradient_shares(model).items():
            self.sums[modality] += share
        self.steps += 1

    def take(self) -> dict[str, float]:
        """Returns the mean shares, `{"gradient_share_text": ...}`, and resets them."""
        taken = {f"gradient_share_{modality}": value / self.steps for modality, value in self.sums.items()}
        self.sums.clear()
        self.steps = 0
        return taken


def compute_gradient_shares(model: nn.Module) -> dict[str, float]:
    """Computes the gradient share of each modality's tower; they sum to 1, or are all 0 if no tower has a gradient."""
    norms = {}
    for modality, tower in unwrap_plait(model).towers.items():
        gradients = [parameter.grad for parameter in tower.parameters() if parameter.grad is not None]
        norms[modality] = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
    total = sum(norms.values())
    return {modality: norm / total if total else 0.0 for modality, norm in norms.items()}


class GradientModulation(TrainerCallback):
    """OGM-GE gradient modulation (Peng et al. 2022, https://arxiv.org/abs/2203.15332, equations 8 to 12): scales down
    the gradient of a tower whose modality predicts the labels better than the others, and adds noise to it.

    With s_m the mean probability of a batch's right classes given modality m alone, and g_m the gradient of its tower:

        rho_m = s_m / (mean of s_n over the others n)
        k_m = 1 - tanh(alpha rho_m) if rho_m > 1, else 1
        g_m = k_m g_m + h,  with `noise`: h ~ N(0, variance of the entries of each parameter's gradient), else h = 0

    The paper has two modalities whose logits add up. Here the logits of one modality come from the fusion with all
    others absent and without dropout, which works for every fusion, and from the tower outputs of the step, so that no
    tower runs twice. The modulation is applied after gradient clipping.

    Args:
        model: a PlaitForClassification of several modalities, or a PEFT model around one.
        alpha: strength of the modulation, above 0.
        noise: whether noise is added (GE).
        seed: of the noise.

    Raises:
        ValueError: alpha not above 0, or a model that does not choose one class from several modalities.
    """

    def __init__(self, model: nn.Module, alpha: float, noise: bool, seed: int) -> None:
        inner: Any = unwrap_peft_model(model)
        if alpha <= 0:
            raise ValueError(f"ogm_alpha is {alpha}: expected more than 0")
        if not isinstance(inner, PlaitForClassification) or inner.config.problem_type in (REGRESSION, MULTI):
            raise ValueError(
                f"ogm_alpha is {alpha}, but {type(inner).__name__} does not choose one class (or not in this "
                "problem_type): leave ogm_alpha out"
            )
        self.model, self.alpha, self.noise, self.seed = inner, alpha, noise, seed
        self.modalities = tuple(inner.model.towers)
        if len(self.modalities) < 2:
            raise ValueError(
                f"ogm_alpha is {alpha}, but the model has a single tower, and it balances several: leave ogm_alpha out"
            )
        self.tower_outputs: Mapping[str, TowerOutput] = {}
        self.scores = torch.zeros(len(self.modalities), 2)

    @contextmanager
    def watch_towers(self) -> Iterator[None]:
        """Opens a context in which the tower outputs of each forward pass of the model are kept."""
        hook = self.model.model.register_forward_hook(self.store_tower_outputs)
        try:
            yield
        finally:
            hook.remove()

    def store_tower_outputs(self, module: nn.Module, inputs: Any, output: PlaitModelOutput) -> None:
        """Keeps the tower outputs of a forward pass, as a forward hook of the PlaitModel."""
        self.tower_outputs = output.encoder_outputs or {}

    @torch.no_grad()
    def update_scores(self, labels: Tensor) -> None:
        """Adds up the probabilities of the right classes given each modality alone, from the tower outputs kept last.

        labels: (batch,) of the same batch.
        """
        outputs, self.tower_outputs = self.tower_outputs, {}
        training = self.model.training
        self.model.eval()
        for number, modality in enumerate(self.modalities):
            if modality in outputs:
                found = compute_unimodal_probabilities(self.model, modality, outputs[modality], labels)
                self.scores[number] += torch.stack((found.sum().cpu(), torch.tensor(float(len(found)))))
        self.model.train(training)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Modulates the gradients of the towers with the scores since the last step."""
        scores, self.scores = sum_over_processes(self.scores, next(self.model.parameters()).device), self.scores * 0
        means = {m: float(total / count) for m, (total, count) in zip(self.modalities, scores, strict=True) if count}
        for modality, factor in compute_coefficients(means, self.alpha).items():
            modulate_gradients(
                self.model.model.towers[modality], factor, self.build_generator(state.global_step, modality)
            )

    def build_generator(self, step: int, modality: str) -> torch.Generator | None:
        """Builds the generator of a tower's noise in a step, None without noise. It is the same in every process, so
        that the weights of all processes stay equal."""
        if not self.noise:
            return None
        device = next(self.model.parameters()).device
        number = self.modalities.index(modality)
        return torch.Generator(device).manual_seed((self.seed * 1_000_003 + step) * 8 + number)


def compute_unimodal_probabilities(model: nn.Module, modality: str, output: TowerOutput, labels: Tensor) -> Tensor:
    """Computes the probability of the right class given one modality alone, (rows,), for the rows of the batch that
    have this modality and a label."""
    rows = output.mask.bool().any(dim=1) & (labels != IGNORE_INDEX)
    if not rows.any():
        return labels.new_zeros(0, dtype=torch.float)
    alone = {"last_hidden_state": output.last_hidden_state.detach()[rows], "mask": output.mask[rows]}
    logits = model(encoder_outputs={modality: alone}).logits.float()
    return logits.softmax(dim=-1).gather(1, labels[rows][:, None])[:, 0]


def compute_coefficients(scores: Mapping[str, float], alpha: float) -> dict[str, float]:
    """Computes the coefficient k of each modality from the mean probabilities; empty for fewer than two modalities."""
    found = {}
    for modality, score in scores.items():
        others = [value for other, value in scores.items() if other != modality]
        if others:
            ratio = score * len(others) / max(sum(others), torch.finfo(torch.float).tiny)
            found[modality] = 1 - float(torch.tensor(alpha * ratio).tanh()) if ratio > 1 else 1.0
    return found


def modulate_gradients(tower: nn.Module, factor: float, generator: torch.Generator | None) -> None:
    """Scales a tower's gradients; with a generator, adds noise with their standard deviation before scaling."""
    for parameter in tower.parameters():
        gradient = parameter.grad
        if gradient is None:
            continue
        noise = None
        if generator is not None and gradient.numel() > 1:
            sample = torch.randn(gradient.shape, generator=generator, device=gradient.device, dtype=torch.float)
            noise = sample.to(gradient.dtype) * gradient.std()
        gradient.mul_(factor)
        if noise is not None:
            gradient.add_(noise)


def sum_over_processes(values: Tensor, device: torch.device) -> Tensor:
    """Sums values over all processes: on the CPU, of the same shape; `device` is where processes exchange tensors."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values = values.to(device)
        torch.distributed.all_reduce(values)
    return values.cpu()
