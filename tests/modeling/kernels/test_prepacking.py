"""Packed weights: the same numbers, dropped when training begins, never silently stale."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from plait import PlaitConfig, PlaitModel
from plait.modeling.kernels import prepacking
from plait.modeling.kernels.install import find_kernel
from plait.modeling.kernels.linear import has_onednn_kernel
from plait.modeling.kernels.prepacking import (
    PLAIN_LAYOUT,
    Float32Linear,
    KernelLayout,
    OneDNNLinear,
    PackedLinear,
    PlainLinear,
    TransposedLinear,
    measure_layouts,
    prepack_weights,
    probe_layout,
)

WIDE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@pytest.fixture
def model() -> PlaitModel:
    torch.manual_seed(0)
    model = PlaitModel(PlaitConfig(vision_config=dict(WIDE))).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def pack_all(model: PlaitModel, monkeypatch: pytest.MonkeyPatch) -> int:
    """Whatever the probe says on this machine."""
    layout = "plait.modeling.kernels.prepacking.probe_layout"
    monkeypatch.setattr(layout, lambda linears: layout_for(linears[0].weight.dtype))
    return model.prepack_weights()


def layout_for(dtype: torch.dtype) -> KernelLayout:
    return (
        KernelLayout(TransposedLinear, OneDNNLinear)
        if has_onednn_kernel(dtype)
        else KernelLayout(Float32Linear, Float32Linear)
    )


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "relu", "quick_gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_equals_plain(activation: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = PlaitModel(PlaitConfig(vision_config={**WIDE, "hidden_act": activation})).to(dtype).eval()
    pixels, state = torch.randn(2, 3, 32, 32, dtype=dtype), copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        expected = model(pixel_values=pixels).last_hidden_state
        assert pack_all(model, monkeypatch) == 12
        found = model(pixel_values=pixels).last_hidden_state
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert (found - expected).abs().max() / expected.abs().max().clamp(min=1) < tolerance
    assert state.keys() == model.state_dict().keys()


def test_training_drops_them(model: PlaitModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pack_all(model, monkeypatch)
    pixels = torch.randn(2, 3, 32, 32)
    with pytest.raises(RuntimeError, match="no gradient"):
        model(pixel_values=pixels)
    model.train()(pixel_values=pixels).last_hidden_state.sum().backward()
    assert not any(isinstance(find_kernel(module), PackedLinear) for module in model.modules())


def test_a_changed_weight_is_an_error_until_packed_again(model: PlaitModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pack_all(model, monkeypatch)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        model.towers["image"].transformer.layers[0].mlp.down_proj.weight.mul_(2)
        with pytest.raises(RuntimeError, match="again"):
            model(pixel_values=pixels)
        pack_all(model, monkeypatch)
        found = model(pixel_values=pixels).last_hidden_state
        plain = copy.copy(model).train().eval()(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)


def test_packing_is_for_inference(model: PlaitModel) -> None:
    with pytest.raises(ValueError, match="training mode"):
        prepack_weights(model.train())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (1, 1), (3, 5), (0,)])
@pytest.mark.parametrize(
    "layout",
    [
        KernelLayout(TransposedLinear, OneDNNLinear),
        KernelLayout(PlainLinear, OneDNNLinear),
        KernelLayout(TransposedLinear, PlainLinear),
    ],
)
def test_each_layout_gives_the_product(layout: KernelLayout, rows: tuple[int, ...], bias: bool) -> None:
    """`prepack_weights` rests on two operators that torch does not document."""
    torch.manual_seed(0)
    layer, x = nn.Linear(512, 640, bias=bias), torch.randn(*rows, 512)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(layer, layout)(x), layer(x), atol=1e-5, rtol=1e-5)


def test_one_row_equals_several(model: PlaitModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The activation that is fused into the product of several rows is computed after that of one."""
    mlp = model.towers["image"].transformer.layers[0].mlp
    x = torch.randn(4, 128)
    with torch.inference_mode():
        expected = mlp(x)
        pack_all(model, monkeypatch)
        torch.testing.assert_close(mlp(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mlp(x[:1]), expected[:1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 6])
def test_hooks_inside_a_packed_mlp_see_what_they_saw(
    model: PlaitModel, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes into each layer and what comes out of it, of one row and of several, and so does what they change."""
    mlp, x, seen = model.towers["image"].transformer.layers[0].mlp, torch.randn(rows, 128), []
    for layer in (mlp.up_proj, mlp.act, mlp.dropout, mlp.down_proj):
        layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0].clone()))
        layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.clone()))
    with torch.inference_mode():
        results = [mlp(x)]
        pack_all(model, monkeypatch)
        results.append(mlp(x))
        torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)
        assert len(seen) == 16
        torch.testing.assert_close(seen[8:], seen[:8], atol=1e-5, rtol=1e-5)
        mlp.act.register_forward_hook(lambda _layer, _inputs, output: output * 0)
        torch.testing.assert_close(mlp(x), mlp.down_proj.bias.expand(rows, -1), atol=1e-6, rtol=0)


def test_packing_draws_no_random_number(model: PlaitModel) -> None:
    state = torch.get_rng_state()
    model.prepack_weights()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_probe_chooses_a_layout() -> None:
    """Whatever it finds here, it is one that gives the product."""
    layers = [nn.Linear(128, 256) for _ in range(3)]
    x = torch.randn(5, 128)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(layers[0], probe_layout(layers))(x), layers[0](x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_without_a_kernel_bfloat16_is_computed_in_float32(bias: bool) -> None:
    """More exact than the emulated product, and rounded once."""
    torch.manual_seed(0)
    layer = nn.Linear(128, 256, bias=bias).bfloat16()
    with torch.inference_mode():
        x = torch.randn(3, 5, 128).bfloat16()
        exact = layer.double()(x.double())
        found = Float32Linear(layer.bfloat16())(x)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, exact.bfloat16())


@pytest.mark.parametrize(
    ("seconds", "layout"),
    [
        ((1.01, 1.0, 0.89, 1.0), (TransposedLinear, OneDNNLinear)),
        ((1.01, 1.0, 0.91, 1.0), (PlainLinear, OneDNNLinear)),
        ((1.03, 1.0, 0.89, 1.0), (TransposedLinear, PlainLinear)),
        ((1.03, 1.0, 0.91, 1.0), (PlainLinear, PlainLinear)),
    ],
)
def test_a_layout_is_chosen_by_its_time(seconds: Any, layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tie of several rows goes to oneDNN; one row must gain a tenth, over weights that no cache holds."""
    monkeypatch.setattr(prepacking, "PROBED_BYTES", 4 * 128 * 256 * 4 - 1)
    probes = [(OneDNNLinear, 1), (PlainLinear, 1), (TransposedLinear, 4), (PlainLinear, 4)]
    times = dict(zip(probes, seconds, strict=True))
    calls = []

    def measure(kernel: Any, linears: Any, rows: int) -> float:
        calls.append((kernel, len(linears), rows))
        return times[kernel, len(linears)]

    monkeypatch.setattr(prepacking, "_measure_seconds", measure)
    assert measure_layouts([nn.Linear(128, 256)] * 6) == layout
    assert {call[2] for call in calls if call[1] == 1} == {1024} and {call[2] for call in calls if call[1] == 4} == {1}


@pytest.mark.parametrize(("emulated", "plain"), [(1.0, True), (1.01, False), (0.99, True)])
def test_an_emulated_type_is_copied_where_that_is_faster(
    emulated: float, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepacking, "has_onednn_kernel", lambda dtype: False)
    monkeypatch.setattr(
        prepacking, "_measure_seconds", lambda kernel, linears, rows: emulated if kernel is PlainLinear else 1.0
    )
    found = measure_layouts([nn.Linear(128, 256, dtype=torch.bfloat16)])
    assert found == (PLAIN_LAYOUT if plain else KernelLayout(Float32Linear, Float32Linear))


def test_wide_layers_are_probed_with_fewer_rows() -> None:
    for shape, rows in (((1024, 1024), 1024), ((2048, 1024), 512), ((2**14, 2**10), 64), ((2**15, 2**10), 64)):
        assert prepacking._count_probe_rows(nn.Linear(*shape, device="meta")) == rows


def test_the_least_of_the_later_times_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run, which warms up, does not."""
    clock = iter([0, 0.1, 1, 5, 6, 9, 10, 15, 20, 28, 30, 36])
    monkeypatch.setattr(prepacking.time, "process_time", lambda: next(clock))
    inputs = []

    def build(linear: nn.Linear) -> Any:
        return lambda x: inputs.append((linear, x))

    layers = [nn.Linear(3, 2), nn.Linear(3, 2)]
    assert prepacking._measure_seconds(build, layers, 4) == 3
    assert len(inputs) == 12 and inputs[0][1].shape == (4, 3) and (inputs[0][1] == 1).all()
    assert [linear for linear, _ in inputs[:4]] == [*layers, *layers]


def test_layers_are_grouped_by_size_and_type() -> None:
    sizes = [(128, 128), (128, 128), (128, 256), (127, 256), (256, 127)]
    model = nn.Sequential(*(nn.Linear(*size) for size in sizes), nn.Linear(128, 128, dtype=torch.bfloat16),
                          nn.Linear(128, 128, dtype=torch.float64))  # fmt: skip
    groups = [[number for number, each in enumerate(model) if any(each is one for one in group)]
              for group in prepacking._group_linears(model)]  # fmt: skip
    assert groups == [[0, 1], [2], [5]]


@pytest.mark.parametrize("remembered", ["", "Another OneDNNLinear", "OneDNNLinear", "a b c"])
def test_a_choice_that_this_version_does_not_know_is_torchs(remembered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacking, "recall_choice", lambda key, measure: remembered)
    assert probe_layout([nn.Linear(128, 256)]).one is PlainLinear
