"""The gradients of rewards beside the exact gradient of the expected reward, by enumeration of every text."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from plait.training.rewards.objective import (
    compute_advantages,
    compute_divergence,
    measure_tokens,
    minimum_risk_loss,
    policy_gradient_loss,
)

VOCABULARY, LENGTH = 3, 2
TEXTS = torch.tensor(list(product(range(VOCABULARY), repeat=LENGTH)))
REWARDS = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.0, 1.5, -0.7, 0.9, 0.1], dtype=torch.float64)


def make_weights() -> Tensor:
    """Logits of the first token, and of the second after each first one."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(VOCABULARY + 1, VOCABULARY, generator=generator, dtype=torch.float64).requires_grad_()


def logits_of(weights: Tensor, texts: Tensor) -> Tensor:
    """The logits of each token of texts, (texts, length, vocabulary)."""
    return torch.stack((weights[0].expand(len(texts), -1), weights[1 + texts[:, 0]]), dim=1)


def log_probs_of(weights: Tensor, texts: Tensor) -> Tensor:
    return measure_tokens(logits_of(weights, texts), texts).log_probs.double().sum(dim=1)


def exact_gradient() -> Tensor:
    """Of minus the expected reward."""
    weights = make_weights()
    chances = [F.softmax(logits, dim=-1) for logits in weights]
    expected = sum(chances[0][a] * chances[1 + a][b] * REWARDS[3 * a + b] for a, b in TEXTS.tolist())
    (-torch.as_tensor(expected)).backward()
    assert weights.grad is not None
    return weights.grad


@pytest.mark.parametrize(
    ("baseline", "samples"), [("none", 1), ("none", 2), ("leave_one_out", 2), ("leave_one_out", 3), ("greedy", 2)]
)
def test_the_estimate_is_unbiased(baseline: str, samples: int) -> None:
    """Averaged over every draw of the samples, weighted by its probability, it is the exact gradient."""
    total = torch.zeros(VOCABULARY + 1, VOCABULARY, dtype=torch.float64)
    drawn = torch.tensor(list(product(range(len(TEXTS)), repeat=samples)))
    weights = make_weights()
    log_probs = log_probs_of(weights, TEXTS)
    chances = log_probs.detach().exp()[drawn].prod(dim=1)
    greedy = REWARDS[log_probs.argmax()][None]
    for numbers, chance in zip(drawn, chances, strict=True):
        advantages = compute_advantages(REWARDS[numbers][None], baseline, greedy)
        loss = policy_gradient_loss(log_probs[numbers][None], advantages)
        (gradient,) = torch.autograd.grad(loss, weights, retain_graph=True)
        total += chance * gradient
    torch.testing.assert_close(total, exact_gradient(), rtol=0, atol=1e-6)
    assert float(chances.sum()) == pytest.approx(1)


def test_one_sample_with_reward_one_is_the_cross_entropy_of_the_sample() -> None:
    weights, text = make_weights(), TEXTS[5:6]
    loss = policy_gradient_loss(log_probs_of(weights, text)[None], compute_advantages(torch.ones(1, 1), "none"))
    expected = F.cross_entropy(logits_of(weights, text)[0], text[0], reduction="sum")
    (ours,), (theirs,) = torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    rewards = torch.randn(4, 5, dtype=torch.float64)
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / 4
    torch.testing.assert_close(compute_advantages(rewards, "leave_one_out"), rewards - others)


def test_the_minimum_risk_of_all_texts_is_the_expected_reward() -> None:
    weights = make_weights()
    loss = minimum_risk_loss(log_probs_of(weights, TEXTS)[None], REWARDS[None], 1.0)
    (gradient,) = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(gradient, exact_gradient(), rtol=0, atol=1e-6)
    sharper = minimum_risk_loss(log_probs_of(weights, TEXTS)[None], REWARDS[None], 50.0)
    assert float(sharper.detach()) == pytest.approx(-float(REWARDS[log_probs_of(weights, TEXTS).argmax()]), abs=0.05)


def test_tokens_behind_the_end_count_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    logits: Any = torch.randn(2, 4, 6, generator=generator)
    labels = torch.tensor([[1, 2, -100, -100], [3, 4, 5, 0]])
    found = measure_tokens(logits, labels)
    assert not found.log_probs[0, 2:].any() and not found.entropies[0, 2:].any()
    expected = -F.cross_entropy(logits[1], labels[1], reduction="none")
    torch.testing.assert_close(found.log_probs[1], expected)
    entropies = torch.distributions.Categorical(logits=logits[1]).entropy()
    torch.testing.assert_close(found.entropies[1], entropies)
    changed = logits.clone()
    changed[0, 2:] = 99.0
    start = torch.randn(2, 4, 6, generator=generator)
    kl = [compute_divergence(each, start, labels) for each in (logits, changed)]
    torch.testing.assert_close(kl[0], kl[1])
    by_hand = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits[labels != -100]),
        torch.distributions.Categorical(logits=start[labels != -100]),
    )
    torch.testing.assert_close(kl[0], by_hand.mean())
    assert float(compute_divergence(logits, logits, labels)) == pytest.approx(0, abs=1e-6)
