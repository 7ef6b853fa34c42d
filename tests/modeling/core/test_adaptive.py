"""Adaptive norms: a condition scales, shifts and gates a layer."""

from typing import Any

import pytest
import torch

from plait.configuration import PlaitTransformerConfig
from plait.modeling.core.adaptive import AdaptiveModulation, Modulation, build_plain_norm, modulate
from plait.modeling.core.layers import SelfInitializing
from plait.modeling.core.transformer import PlaitTransformer

ROWS, LENGTH, WIDTH, CONDITION = 2, 6, 16, 10


def build(**options: Any) -> PlaitTransformer:
    torch.manual_seed(0)
    fields = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "condition_size": CONDITION}
    config = PlaitTransformerConfig(**{**fields, "adaptive_norm": True, "output_norm": False, **options})
    config._attn_implementation = "sdpa"
    transformer = PlaitTransformer(config)
    for module in transformer.modules():
        if isinstance(module, SelfInitializing):
            module.init_weights(0.02)
    return transformer.eval()


X = torch.randn(ROWS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
C = torch.randn(ROWS, CONDITION, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_closed_gates_are_the_identity() -> None:
    """At the start, whatever the condition; gates that start open are not."""
    assert torch.equal(build(adaptive_gate=None)(X, condition=C).last_hidden_state, X)
    opened = build(adaptive_gate=1.0)(X, condition=C).last_hidden_state
    assert (opened - X).abs().max() > 0.1
    assert torch.equal(opened, build(adaptive_gate=1.0)(X, condition=3 * C).last_hidden_state)  # W is zero


@torch.no_grad()
def test_open_gates_start_as_a_plain_layer() -> None:
    adaptive, plain = build(adaptive_gate=1.0), build(adaptive_norm=False, condition_size=None)
    missing, unexpected = plain.load_state_dict(adaptive.state_dict(), strict=False)
    assert all(name.endswith(("_norm.weight", "_norm.bias")) for name in missing)
    assert all(".modulation." in name for name in unexpected)
    assert torch.allclose(adaptive(X, condition=C).last_hidden_state, plain(X).last_hidden_state, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_a_modulation_is_its_formula(norm: str) -> None:
    config = PlaitTransformerConfig(hidden_size=WIDTH, num_attention_heads=2, norm_type=norm, adaptive_norm=True)
    scale, shift, gate = torch.randn(3, ROWS, 1, WIDTH)
    centred = X - X.mean(-1, keepdim=True) if norm == "layer_norm" else X
    normed = centred / (centred.square().mean(-1, keepdim=True) + config.norm_eps).sqrt()
    found = modulate(X, build_plain_norm(config), Modulation(scale, shift, gate))
    assert torch.allclose(found, normed * (1 + scale) + shift, atol=1e-5)


@torch.no_grad()
def test_the_modulations_are_linear_in_the_condition() -> None:
    config = PlaitTransformerConfig(
        hidden_size=WIDTH, num_attention_heads=2, condition_size=CONDITION, adaptive_gate=0.5
    )
    modulation = AdaptiveModulation(config, sublayers=2)
    modulation.init_weights(0.02)
    for scale, shift, gate in modulation(C):
        assert scale.shape == (ROWS, 1, WIDTH)
        assert not scale.any() and not shift.any() and bool((gate == 0.5).all())
    torch.nn.init.normal_(modulation.proj.weight)
    parts = torch.cat([part[:, 0] for each in modulation(C) for part in each], dim=1)
    assert torch.allclose(parts, C @ modulation.proj.weight.T + modulation.proj.bias, atol=1e-5)


@torch.no_grad()
def test_the_condition_of_a_row_reaches_that_row_alone() -> None:
    transformer = build(adaptive_gate=1.0)
    for layer in transformer.layers:
        torch.nn.init.normal_(layer.modulation.proj.weight)
    usual = transformer(X, condition=C).last_hidden_state
    changed = torch.stack((C[0], -C[1]))
    found = transformer(X, condition=changed).last_hidden_state
    assert torch.allclose(found[0], usual[0], atol=1e-6)
    assert (found[1] - usual[1]).abs().max() > 0.1


@torch.no_grad()
def test_packing_steps_aside() -> None:
    """A packed row has no condition of its own: padding is masked instead, and stays invisible."""
    transformer = build(adaptive_gate=1.0, packing=True)
    for layer in transformer.layers:
        torch.nn.init.normal_(layer.modulation.proj.weight)
    mask = torch.tensor([[1] * LENGTH, [1] * 4 + [0] * 2])
    assert not transformer.can_pack(mask)
    assert build(adaptive_norm=False, condition_size=None, packing=True).can_pack(mask)
    padded = transformer(X, mask, condition=C).last_hidden_state
    alone = transformer(X[1:, :4], condition=C[1:]).last_hidden_state
    assert torch.allclose(padded[1:, :4], alone, atol=1e-5)


def test_the_condition_gets_a_gradient_at_once_through_open_gates() -> None:
    transformer = build(adaptive_gate=1.0)
    transformer(X, condition=C).last_hidden_state.square().sum().backward()
    assert all(layer.modulation.proj.weight.grad.any() for layer in transformer.layers)
