"""The product of int8 by oneDNN computes what torchao does, and steps aside where it may not be used."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("torchao")

from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from plait.modeling.kernels import layers
from plait.modeling.kernels.install import find_kernel
from plait.modeling.kernels.int8 import Int8Linear, has_int8_products, install_int8_kernels, round_rows

needs_products = pytest.mark.skipif(not has_int8_products(), reason="no AVX-512 VNNI")


def build(width: int = 24, outputs: int = 40, bias: bool = True) -> tuple[nn.Linear, Any]:
    """A layer with int8 weights, and the kernel in its place."""
    torch.manual_seed(0)
    layer: Any = nn.Linear(width, outputs, bias=bias)
    quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    assert install_int8_kernels(nn.Sequential(layer, nn.Linear(2, 2))) == 1
    return layer, find_kernel(layer)


@needs_products
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (2, 3, 24), (300, 24)])
def test_the_product_is_torchaos(shape: tuple[int, ...], bias: bool) -> None:
    """Up to the rounding of the input, by less than it errs itself; rows of very different sizes, and one of zeros."""
    layer, kernel = build(bias=bias)
    x = torch.randn(*shape) * torch.logspace(-3, 3, shape[-2])[:, None]
    x[..., -1, :] *= 0 if shape[-2] > 1 else 1
    with torch.no_grad():
        torchaos, found = nn.Linear.forward(layer, x), layer(x)
        exact = nn.functional.linear(x, layer.weight.dequantize(), layer.bias)
    assert kernel.packed is not None and found.shape == torchaos.shape
    sizes = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6)
    error, its_error = (((other - exact) / sizes).square().mean().sqrt() for other in (found, torchaos))
    assert 0 < error < 1.1 * its_error


@needs_products
@pytest.mark.parametrize("layout", ["transposed", "a part", "strided bias and scale"])
@torch.no_grad()
def test_any_layout_of_weights_in_memory(layout: str) -> None:
    torch.manual_seed(0)
    layer: Any = nn.Linear(24, 40)
    if layout != "strided bias and scale":
        wide = torch.randn(24, 40).T if layout == "transposed" else torch.randn(40, 60)[:, 7:31]
        layer.weight = nn.Parameter(wide)
    quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    if layout == "strided bias and scale":
        layer.bias = nn.Parameter(torch.randn(80)[::2])
        layer.weight.scale = torch.stack((layer.weight.scale, layer.weight.scale * 0), dim=1).flatten(0, 1)[::2]
    install_int8_kernels(nn.Sequential(layer))
    x = torch.randn(3, 24)
    exact = nn.functional.linear(x, layer.weight.dequantize(), layer.bias)
    torch.testing.assert_close(layer(x), exact, atol=0.1, rtol=0.05)
    assert find_kernel(layer).packed is not None


@needs_products
def test_it_steps_aside_where_it_may_not_be_used() -> None:
    layer, kernel = build()
    x = torch.randn(3, 24)
    layer(x)  # with gradients enabled
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
        assert kernel.packed is None
        found = layer(x)
        assert kernel.packed is not None
        layer.weight = nn.Parameter(torch.ones(40, 24))
        layer.bias = None
        assert torch.allclose(layer(x), x.sum(dim=1, keepdim=True).expand(-1, 40), atol=1e-5)
    assert found.shape == (3, 40)


@needs_products
def test_a_copy_and_changed_weights_are_packed_again() -> None:
    layer, kernel = build()
    x = torch.randn(3, 24)
    with torch.no_grad():
        found = layer(x)
        other = copy.deepcopy(layer)
        other.weight.qdata.zero_()
        assert torch.equal(other(x), layer.bias.expand(3, -1))
        assert find_kernel(other) is not kernel and torch.equal(layer(x), found)
        layer.weight.scale.mul_(2)
        torch.testing.assert_close(layer(x), 2 * found - layer.bias, atol=1e-5, rtol=1e-5)
        layer.weight.qdata.zero_()
        assert torch.equal(layer(x), other(x))
        torch.save(layer.state_dict(), io.BytesIO())


@needs_products
@pytest.mark.parametrize("gated", [False, True])
def test_layers_that_share_an_input_round_it_once(gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the activation is computed in place; the outputs are those of the layers called one by one, bit by bit."""
    (first, _), (second, _), (third, _) = build(), build(bias=False), build(outputs=8)
    x, act, rounded = torch.randn(2, 3, 24), nn.GELU(), []
    monkeypatch.setattr(layers, "round_rows", lambda x: rounded.append(x) or round_rows(x))
    with torch.no_grad():
        expected = [layer(x) for layer in (first, second, third)]
        for found, one in zip(layers.compute_linears([first, second, third], x), expected, strict=True):
            assert torch.equal(found, one)
        assert len(rounded) == 1
        if gated:
            found, one = layers.compute_gated(first, act, second, x), act(first(x)) * second(x)
        else:
            found, one = layers.compute_activated(first, act, x), act(first(x))
        assert torch.equal(found, one)


@needs_products
def test_a_hook_on_one_of_them_is_called() -> None:
    (first, _), (second, _) = build(), build()
    x, seen = torch.randn(3, 24), []
    first.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.clone()) or output * 2)
    second.register_forward_pre_hook(lambda _layer, inputs: (inputs[0] * 0,))
    with torch.no_grad():
        doubled, empty = layers.compute_linears([first, second], x)
        activated = layers.compute_activated(first, nn.ReLU(), x)
    assert torch.equal(doubled, seen[0] * 2) and torch.equal(activated, doubled.relu())
    assert torch.equal(empty, second.bias.expand(3, -1))
    mixed = layers.compute_linears([first, nn.Linear(24, 5)], x)  # with gradients
    assert [tuple(one.shape) for one in mixed] == [(3, 40), (3, 5)] and mixed[1].requires_grad


@needs_products
def test_a_hook_on_the_activation_keeps_what_it_saw() -> None:
    (gate, _), (layer, _) = build(), build()
    x, act, seen = torch.randn(3, 24), nn.GELU(), []
    act.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    with torch.no_grad():
        found = layers.compute_gated(gate, act, layer, x)
        expected = nn.functional.gelu(gate(x))
        assert torch.equal(seen[0], expected) and torch.equal(found, expected * layer(x))


@needs_products
def test_a_bias_of_another_type_is_added() -> None:
    layer, kernel = build()
    x = torch.randn(3, 24)
    with torch.no_grad():
        expected = layer(x)
        layer.bias = nn.Parameter(layer.bias.bfloat16())
        found = layer(x)
    assert kernel.packed is not None and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


@needs_products
def test_weights_made_in_inference_mode_have_the_kernel() -> None:
    with torch.inference_mode():
        layer, kernel = build()
        assert layer(torch.randn(3, 24)).shape == (3, 40) and kernel.packed is not None


def test_other_weights_keep_their_own_product() -> None:
    plain = nn.Linear(4, 4)
    assert install_int8_kernels(plain) == 0 and find_kernel(plain) is None
    assert not isinstance(find_kernel(plain), Int8Linear)
