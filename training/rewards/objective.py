"""The losses of reinforcement learning, from log-probabilities and rewards of several texts for each row."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...modeling.losses.cross_entropy import IGNORE_INDEX


class TokenStatistics(NamedTuple):
    """What the logits say of sampled tokens, each (texts, length), 0 behind a text's end. log_probs: of the tokens;
    entropies: of the distributions that they were drawn from, in nats."""

    log_probs: Tensor
    entropies: Tensor


def measure_tokens(logits: Tensor, labels: Tensor) -> TokenStatistics:
    """Measures logits, (texts, length, vocabulary), at labels, (texts, length), -100 behind the end."""
    known = labels != IGNORE_INDEX
    distributions = logits[known].float().log_softmax(dim=-1)
    log_probs = torch.zeros(labels.shape, dtype=distributions.dtype, device=logits.device)
    entropies = torch.zeros_like(log_probs)
    log_probs[known] = distributions.gather(1, labels[known][:, None])[:, 0]
    with torch.no_grad():
        entropies[known] = -(distributions.exp() * distributions.clamp_min(-1e4)).sum(dim=-1)
    return TokenStatistics(log_probs, entropies)


def compute_divergence(logits: Tensor, start_logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the mean over the tokens of KL(model || start) between their distributions, in nats; arguments as in
    `measure_tokens`. Exact at every position, not estimated from the sampled token."""
    known = labels != IGNORE_INDEX
    model, start = (each[known].float().log_softmax(dim=-1) for each in (logits, start_logits))
    terms = model.exp() * (model.clamp_min(-1e4) - start.clamp_min(-1e4))
    return terms.sum(dim=-1).mean()


def compute_advantages(rewards: Tensor, baseline: str, greedy: Tensor | None = None) -> Tensor:
    """Computes reward minus baseline, (rows, samples), of rewards of that shape.

    baseline: "leave_one_out", the mean reward of the row's other samples; "greedy", (rows,) given; "none", 0.
    """
    if baseline == "leave_one_out":
        count = rewards.shape[1]
        return (rewards - rewards.mean(dim=1, keepdim=True)) * (count / (count - 1))
    if baseline == "greedy" and greedy is not None:
        return rewards - greedy[:, None]
    return rewards


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Computes -mean(A log p(y)), of log-probabilities of whole texts and their advantages, both (rows, samples): its
    gradient is an unbiased estimate of that of the expected reward, downwards (Williams 1992)."""
    return -(advantages.detach() * log_probs).mean()


def minimum_risk_loss(log_probs: Tensor, rewards: Tensor, sharpness: float) -> Tensor:
    """Computes the expected risk -sum_k q_k R_k, averaged over the rows, with q_k = p_k^a / sum_j p_j^a over the row's
    candidates (Shen et al. 2016, https://arxiv.org/abs/1512.02433, equations 8 to 11).

    log_probs, rewards: (rows, candidates); sharpness: a. A candidate that is there twice counts once: give it -inf.
    """
    return -((sharpness * log_probs).softmax(dim=1) * rewards.detach()).sum(dim=1).mean()
