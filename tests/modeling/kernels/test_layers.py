"""An MLP and an attention without gradients: what the modules compute, by fewer operations; and the modules themselves
wherever a call of them might do more."""

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from plait import PlaitConfig, PlaitModel
from plait.configuration import PlaitTransformerConfig
from plait.modeling.core.layers import PlaitGatedMLP, PlaitMLP
from plait.modeling.kernels import linear as products
from plait.modeling.kernels.activations import ACTIVATION_KERNELS, find_activation_kernel
from plait.modeling.kernels.layers import compute_activated, compute_gated, compute_linear, may_pass_by

WIDTH, INNER, ROWS = 128, 512, (2, 160)
CHOICES = ["torch", *(["onednn"] if torch.backends.mkldnn.is_available() else [])]
ACTIVATIONS = ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "quick_gelu"]


@pytest.fixture(params=CHOICES)
def choice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whichever kernel is the fastest on this machine."""
    monkeypatch.setattr(products, "recall_choice", lambda key, measure: request.param)
    return request.param


def build_mlp(activation: str = "gelu", gated: bool = False) -> tuple[PlaitMLP, Tensor]:
    torch.manual_seed(0)
    config = PlaitTransformerConfig(hidden_size=WIDTH, intermediate_size=INNER, hidden_act=activation, gated_mlp=gated)
    return (PlaitGatedMLP if gated else PlaitMLP)(config).eval(), torch.randn(*ROWS, WIDTH)


def compute_plainly(mlp: Any, x: Tensor) -> Tensor:
    if isinstance(mlp, PlaitGatedMLP):
        return mlp.down_proj(mlp.act(mlp.gate_proj(x)) * mlp.up_proj(x))
    return mlp.down_proj(mlp.act(mlp.up_proj(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_an_mlp_computes_what_its_modules_compute(
    activation: str, gated: bool, dtype: torch.dtype, choice: str
) -> None:
    mlp, x = build_mlp(activation, gated)
    mlp, x = mlp.to(dtype), x.to(dtype)
    given = x.clone()
    assert may_pass_by(mlp.up_proj, x) and find_activation_kernel(mlp.act) is not None
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 5e-3, "rtol": 2e-2}
    torch.testing.assert_close(mlp(x), compute_plainly(mlp, x), **close)
    assert torch.equal(x, given)


def test_every_activation_of_the_kernels_is_in_place_and_the_same() -> None:
    acts: list[nn.Module] = [nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU(), nn.SiLU()]
    acts += [ACT2FN["gelu"], ACT2FN["silu"], build_mlp("quick_gelu")[0].act]
    assert {type(act) for act in acts} == set(ACTIVATION_KERNELS)
    for act in acts:
        kernel, x = find_activation_kernel(act), torch.linspace(-5, 5, 101)
        assert kernel is not None
        with torch.no_grad():
            expected, changed = act(x), x.clone()
            assert kernel.in_place(changed) is changed
        torch.testing.assert_close(changed, expected, atol=0, rtol=0)


@torch.no_grad()
def test_other_activations_are_called(choice: str) -> None:
    mlp, x = build_mlp()
    mlp.act = nn.Tanh()
    assert torch.equal(compute_activated(mlp.up_proj, mlp.act, x), mlp.act(compute_linear(mlp.up_proj, x)))
    mlp.act = ACT2FN["gelu_python"] if "gelu_python" in ACT2FN else nn.Mish()
    assert find_activation_kernel(mlp.act) is None
    act = nn.GELU()
    act.forward = lambda x: x
    assert find_activation_kernel(act) is None
    torch.testing.assert_close(compute_activated(mlp.up_proj, act, x), mlp.up_proj(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_hooks_see_and_change_what_they_did(gated: bool, choice: str) -> None:
    mlp, x = build_mlp(gated=gated)
    expected, seen = compute_plainly(mlp, x), []
    first = mlp.gate_proj if isinstance(mlp, PlaitGatedMLP) else mlp.up_proj
    product = nn.functional.linear(x, first.weight, first.bias)
    hooked = (first, mlp.act, mlp.dropout, mlp.down_proj)
    handles = [layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output)) for layer in hooked]
    torch.testing.assert_close(mlp(x), expected, atol=1e-5, rtol=1e-5)
    assert len(seen) == 4
    torch.testing.assert_close(seen[0], product, atol=1e-5, rtol=1e-5)  # kept by a hook, so not overwritten
    for handle in handles:
        handle.remove()
    first.register_forward_pre_hook(lambda _layer, inputs: (inputs[0] * 0,))
    changed = mlp(x)
    torch.testing.assert_close(changed, compute_plainly(mlp, x), atol=1e-5, rtol=1e-5)
    assert (changed - expected).abs().max() > 1e-3


@pytest.mark.parametrize("gated", [False, True])
def test_gradients_are_those_of_the_modules(gated: bool, choice: str) -> None:
    mlp, x = build_mlp(gated=gated)
    other = copy.deepcopy(mlp)
    mlp(x).square().sum().backward()
    compute_plainly(other, x).square().sum().backward()
    for own, expected in zip(mlp.parameters(), other.parameters(), strict=True):
        assert own.grad is not None and torch.equal(own.grad, expected.grad)


def add_adapter(layer: nn.Module) -> nn.Module:
    holder = nn.Sequential(layer)
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["0"], init_lora_weights=False), holder)
    return holder[0]


def replace_forward(layer: nn.Module) -> nn.Module:
    own = type(layer).forward
    layer.forward = lambda x: own(layer, x) * 2
    return layer


@pytest.mark.parametrize("alter", [add_adapter, replace_forward])
@torch.no_grad()
def test_an_altered_layer_is_called(alter: Callable[[nn.Module], nn.Module], choice: str) -> None:
    mlp, x = build_mlp()
    before = compute_linear(mlp.up_proj, x)
    layer = alter(mlp.up_proj)
    assert not may_pass_by(layer, x)
    assert torch.equal(compute_linear(layer, x), layer(x)) and not torch.equal(compute_linear(layer, x), before)
    gate = build_mlp(gated=True)[0].get_submodule("gate_proj")
    for found in (compute_gated(gate, mlp.act, layer, x), compute_gated(layer, mlp.act, gate, x)):
        assert found.shape == (*ROWS, INNER)
    torch.testing.assert_close(
        compute_gated(gate, mlp.act, layer, x), mlp.act(gate(x)) * layer(x), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        compute_gated(layer, mlp.act, gate, x), mlp.act(layer(x)) * gate(x), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_autocast_keeps_its_types() -> None:
    mlp, x = build_mlp()
    with torch.autocast("cpu", torch.bfloat16):
        assert not may_pass_by(mlp.up_proj, x)
        assert torch.equal(mlp(x), compute_plainly(mlp, x))


@torch.no_grad()
def test_a_changed_weight_counts_at_once(choice: str) -> None:
    """Also one that torch does not count: there is no copy that could be stale."""
    mlp, x = build_mlp()
    mlp(x)
    for change in (lambda weight: weight.data.mul_(2), lambda weight: weight.mul_(3)):
        change(mlp.up_proj.weight)
        torch.testing.assert_close(mlp(x), compute_plainly(mlp, x), atol=1e-5, rtol=1e-5)
    mlp.up_proj.weight = nn.Parameter(torch.ones(INNER, WIDTH))
    torch.testing.assert_close(mlp(x), compute_plainly(mlp, x), atol=1e-4, rtol=1e-5)


def test_a_model_without_the_choices_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64, "patch_size": 8}
    model, pixels = PlaitModel(PlaitConfig(vision_config=size)).eval(), torch.randn(2, 3, 64, 64)
    asked: list[str] = []
    monkeypatch.setattr(products, "recall_choice", lambda key, measure: asked.append(key) or CHOICES[-1])
    with torch.inference_mode():
        found = model(pixel_values=pixels).last_hidden_state
        monkeypatch.setenv("PLAIT_AUTOTUNE", "0")
        expected = model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(asked) == 12
