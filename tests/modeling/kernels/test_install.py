"""What replaces a module's `forward`: found and removed by its kind, and never put over somebody else's."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from plait import PlaitConfig, PlaitModel
from plait.modeling.kernels.install import find_kernel, install_kernel, remove_kernels
from plait.modeling.kernels.plain import is_exact_linear, is_plain
from plait.modeling.kernels.prepacking import InPlaceMLP, KernelLayout, PackedLinear, PlainLinear, prepack_weights
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
        assert [isinstance(find_kernel(mlp), InPlaceMLP) for mlp in mlps] == [False, False, False, True]
        torch.testing.assert_close(model(pixel_values=pixels).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
