"""What replaces a module's `forward`: found and removed by its kind, and never put over somebody else's."""

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from plait import PlaitConfig, PlaitModel
from plait.modeling.kernels.install import find_kernel, install_kernel, remove_kernels
from plait.modeling.kernels.plain import is_exact_embedding, is_exact_linear, is_plain
from plait.modeling.kernels.prepacking import (
    KernelLayout,
    OneDNNLinear,
    PackedLinear,
    PlainLinear,
    drop_packed_weights,
    prepack_weights,
)
from plait.modeling.kernels.training import TORCH_KERNELS, AutotunedLinear, is_autotunable

ALTERED: dict[str, Callable[[nn.Module], object]] = {
    "a forward hook": lambda layer: layer.register_forward_hook(lambda *arguments: None),
    "a forward pre-hook": lambda layer: layer.register_forward_pre_hook(lambda *arguments: None),
    "a backward hook": lambda layer: layer.register_full_backward_hook(lambda *arguments: None),
    "a backward pre-hook": lambda layer: layer.register_full_backward_pre_hook(lambda *arguments: None),
    "another forward": lambda layer: setattr(layer, "forward", lambda x: x),
    "a parametrisation": parametrizations.weight_norm,
    "a mask": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "a weight of another class": lambda layer: setattr(layer, "weight", OtherWeight(torch.randn(128, 128))),
    "an offloaded weight": lambda layer: layer.to("meta"),
    "a weight that is no parameter": lambda layer: setattr(layer, "weight", layer._parameters.pop("weight") * 1),
}


class OtherWeight(nn.Parameter):
    """As quantised and sharded weights are: `nn.Linear` holds them and their own class multiplies by them."""


@pytest.mark.parametrize("what", ALTERED)
def test_a_layer_that_is_more_than_its_class_is_not_plain(what: str) -> None:
    layer = nn.Linear(128, 128)
    assert is_plain(layer) and is_exact_linear(layer) and is_autotunable(layer)
    ALTERED[what](layer)
    assert not is_exact_linear(layer)
    assert not (type(layer) is nn.Linear and is_plain(layer))


@pytest.mark.parametrize(
    "register", [nn.modules.module.register_module_forward_hook, nn.modules.module.register_module_forward_pre_hook]
)
def test_nothing_is_plain_under_a_hook_of_all_modules(register: Callable[..., Any]) -> None:
    layer = nn.Linear(4, 4)
    handle = register(lambda *arguments: None)
    found = is_plain(layer), is_exact_linear(layer)
    handle.remove()
    assert found == (False, False) and is_plain(layer) and is_exact_linear(layer)


def test_an_embedding_that_does_more_than_look_up_is_not_exact() -> None:
    assert is_exact_embedding(nn.Embedding(4, 4, padding_idx=0))
    assert not is_exact_embedding(nn.Embedding(4, 4, max_norm=1.0))
    assert not is_exact_embedding(nn.Embedding(4, 4, scale_grad_by_freq=True))


def test_kernels_are_removed_by_their_kind() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    own, x = lambda x: x, torch.randn(2, 8)
    expected = model[1](model[0](x))
    model[2].forward = own
    install_kernel(model[0], AutotunedLinear(model[0], TORCH_KERNELS))
    install_kernel(model[1], PackedLinear(model[1], KernelLayout(PlainLinear, PlainLinear)))
    assert not is_plain(model[0]) and is_exact_linear(model[0])
    remove_kernels(model, PackedLinear)
    assert find_kernel(model[1]) is None and isinstance(find_kernel(model[0]), AutotunedLinear)
    remove_kernels(model, PackedLinear, AutotunedLinear)
    assert find_kernel(model[0]) is None and find_kernel(model[2]) is own
    assert torch.equal(model(x), expected)


def test_a_copy_computes_with_its_own_weights() -> None:
    layer, x = nn.Linear(8, 8), torch.randn(2, 8)
    install_kernel(layer, AutotunedLinear(layer, TORCH_KERNELS))
    other = copy.deepcopy(layer)
    nn.init.zeros_(other.weight)
    assert torch.equal(other(x), other.bias.expand(2, -1)) and not torch.equal(layer(x), other(x))


def test_no_kernel_is_put_over_what_somebody_else_put() -> None:
    layer = nn.Linear(8, 8)
    layer.forward = lambda x: x
    with pytest.raises(ValueError, match="forward of this Linear is replaced"):
        install_kernel(layer, AutotunedLinear(layer, TORCH_KERNELS))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_packing_steps_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `forward` is replaced (as it is for offloaded weights), and for another activation than the config's."""
    layout = KernelLayout(PlainLinear, PlainLinear)
    monkeypatch.setattr("plait.modeling.kernels.prepacking.PLAIN_LAYOUT", None)
    monkeypatch.setattr("plait.modeling.kernels.prepacking.probe_layout", lambda linears: layout)
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = PlaitModel(PlaitConfig(vision_config=sizes)).eval()
    mlps, pixels = [layer.mlp for layer in model.towers["image"].transformer.layers], torch.randn(2, 3, 32, 32)
    mlps[0].up_proj.forward = lambda x: 2 * type(mlps[0].up_proj).forward(mlps[0].up_proj, x)
    mlps[1].forward = lambda x: 3 * type(mlps[1]).forward(mlps[1], x)
    mlps[2].act = nn.Tanh()
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state
        assert prepack_weights(model) == 23
        torch.testing.assert_close(model(pixel_values=pixels).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def build_packed(act: str) -> tuple[Any, PlaitModel, torch.Tensor]:
    """A model whose MLPs have kernels, the MLP of its first layer, and pictures."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = PlaitModel(PlaitConfig(vision_config={**sizes, "hidden_act": act})).eval()
    prepack_weights(model)
    return model.towers["image"].transformer.layers[0].mlp, model, torch.randn(2, 3, 32, 32)


def add_adapter(mlp: Any) -> None:
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["up_proj"], init_lora_weights=False), mlp)


def replace_activation(mlp: Any) -> None:
    mlp.act = nn.Tanh()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("act", ["gelu", "silu"], ids=["fused", "in place"])
@pytest.mark.parametrize("alter", [add_adapter, replace_activation])
@torch.no_grad()
def test_what_is_put_into_a_packed_mlp_is_computed(
    act: str, alter: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = KernelLayout(OneDNNLinear, OneDNNLinear)
    monkeypatch.setattr("plait.modeling.kernels.prepacking.probe_layout", lambda linears: layout)
    mlp, model, pixels = build_packed(act)
    assert isinstance(find_kernel(mlp.up_proj), PackedLinear)
    before = model(pixel_values=pixels).last_hidden_state
    alter(mlp)
    packed = model(pixel_values=pixels).last_hidden_state
    drop_packed_weights(model)
    plain = model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(packed, plain, atol=1e-4, rtol=1e-4)
    assert (before - plain).abs().max() > 1e-3


@torch.no_grad()
def test_another_weight_is_noticed_by_a_packed_layer() -> None:
    layer = nn.Linear(8, 8)
    install_kernel(layer, PackedLinear(layer, KernelLayout(PlainLinear, PlainLinear)))
    layer(torch.randn(2, 8))
    layer.weight = nn.Parameter(torch.randn(8, 8))  # as load_state_dict(assign=True) and parametrizations do
    with pytest.raises(RuntimeError, match="changed after it was packed"):
        layer(torch.randn(2, 8))


def test_an_autotuned_layer_leaves_other_weights_to_torch() -> None:
    """A weight that was quantized or sharded after the kernel was installed."""
    layer, x = nn.Linear(128, 128), torch.randn(64, 128)
    kernel = AutotunedLinear(layer, TORCH_KERNELS)
    assert kernel.has_kernel_for(x)
    layer.weight = OtherWeight(torch.randn(128, 128))
    assert not kernel.has_kernel_for(x)
