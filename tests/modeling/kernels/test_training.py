"""Linear layers in training by other kernels: the same numbers and gradients, whichever products they serve."""

import copy
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from plait import PlaitForCausalLM
from plait.modeling.kernels import autotune, training
from plait.modeling.kernels.install import install_kernel
from plait.modeling.kernels.training import (
    FEWEST_ROWS,
    LEAST_SIZE,
    MOST_OUTPUTS,
    TORCH_KERNELS,
    AutotunedLinear,
    LinearKernels,
    choose_products,
    drop_products,
    measure_kernels,
    multiply_by_onednn,
    multiply_by_torch,
    probe_kernels,
)

ALL_ONEDNN = LinearKernels(multiply_by_onednn, multiply_by_onednn, multiply_by_onednn)
MIXTURES = [LinearKernels(*kernels) for kernels in product((multiply_by_torch, multiply_by_onednn), repeat=3)]

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


def gradients(linear: nn.Linear, x: Tensor, slope: Tensor) -> list[Tensor | None]:
    """The output, and the gradients by the input, the weight and the bias."""
    for parameter in linear.parameters():
        parameter.grad = None
    out = linear(x)
    (dx,) = torch.autograd.grad(out, x, slope, retain_graph=True)
    if any(parameter.requires_grad for parameter in linear.parameters()):
        out.backward(slope, inputs=[p for p in linear.parameters() if p.requires_grad])
    return [out.detach(), dx, *(parameter.grad for parameter in linear.parameters())]


def assert_same(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    assert len(found) == len(expected)
    for ours, torchs in zip(found, expected, strict=True):
        assert (ours is None) == (torchs is None)
        if ours is not None and torchs is not None:
            assert ours.shape == torchs.shape
            assert (ours - torchs).abs().max() / torchs.abs().max().clamp(min=1) < 1e-5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("products", MIXTURES, ids=lambda p: "-".join(kernel.__name__[3:] for kernel in p))
def test_numbers_and_gradients_are_torchs(products: LinearKernels, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(160, 130, bias=bias)
    x, slope = torch.randn(3, 50, 160, requires_grad=True), torch.randn(3, 50, 130)
    expected = gradients(linear, x, slope)
    install_kernel(linear, AutotunedLinear(linear, products))
    assert_same(gradients(linear, x, slope), expected)


@pytest.mark.parametrize("view", ["transposed", "strided", "expanded", "one value"])
def test_any_layout_in_memory(view: str) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(160, 130)
    views = {
        "transposed": lambda width: torch.randn(width, 100).t(),
        "strided": lambda width: torch.randn(100, 2 * width)[:, ::2],
        "expanded": lambda width: torch.randn(1, width).expand(100, width),
        "one value": lambda width: torch.tensor(1.5).expand(100, width),
    }
    x, slope = views[view](160).requires_grad_(), views[view](130)
    expected = gradients(linear, x, slope)
    install_kernel(linear, AutotunedLinear(linear, ALL_ONEDNN))
    assert_same(gradients(linear, x, slope), expected)


def test_any_layout_of_the_parameters() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(160, 130)
    linear.weight, linear.bias = nn.Parameter(torch.randn(160, 150).T[:130]), nn.Parameter(torch.randn(260)[::2])
    x, slope = torch.randn(100, 160, requires_grad=True), torch.randn(100, 130)
    expected = gradients(linear, x, slope)
    install_kernel(linear, AutotunedLinear(linear, ALL_ONEDNN))
    assert_same(gradients(linear, x, slope), expected)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_parameters_get_no_gradient(frozen: str) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(160, 130)
    linear.get_parameter(frozen).requires_grad_(False)
    x, slope = torch.randn(100, 160, requires_grad=True), torch.randn(100, 130)
    expected = gradients(linear, x, slope)
    install_kernel(linear, AutotunedLinear(linear, ALL_ONEDNN))
    found = gradients(linear, x, slope)
    assert linear.get_parameter(frozen).grad is None
    assert_same(found, expected)


@pytest.mark.parametrize("frozen", [True, False])
def test_no_more_is_kept_for_the_gradient_than_by_torch(frozen: bool) -> None:
    """A frozen layer (an adapter's base) keeps no input."""
    linear, x = nn.Linear(160, 130), torch.randn(100, 160, requires_grad=True)
    linear.weight.requires_grad_(not frozen)

    def kept() -> list[torch.Size]:
        shapes: list[torch.Size] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: shapes.append(tensor.shape), lambda tensor: tensor
        ):
            linear(x)
        return sorted(shape if shape != (160, 130) else torch.Size((130, 160)) for shape in shapes)

    expected = kept()
    install_kernel(linear, AutotunedLinear(linear, ALL_ONEDNN))
    assert kept() == expected and len(expected) == (1 if frozen else 2)


def test_what_the_kernels_do_not_serve_is_bitwise_torchs() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(160, 130)
    few, many = torch.randn(FEWEST_ROWS - 1, 160), torch.randn(FEWEST_ROWS, 160)
    plain_few, plain_many = linear(few), linear(many)
    with torch.autocast("cpu", torch.bfloat16):
        plain_cast = linear(many)
    install_kernel(linear, AutotunedLinear(linear, ALL_ONEDNN))
    with torch.no_grad():
        assert torch.equal(linear(many), plain_many)
    assert torch.equal(linear(few), plain_few)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear(many), plain_cast) and plain_cast.dtype == torch.bfloat16
    assert "LinearFunction" in str(linear(many).grad_fn.next_functions) + str(linear(many).grad_fn)


def test_a_gradient_of_a_gradient_is_an_error_not_zero() -> None:
    linear = nn.Linear(160, 130)
    install_kernel(linear, AutotunedLinear(linear, ALL_ONEDNN))
    x = torch.randn(100, 160, requires_grad=True)
    (dx,) = torch.autograd.grad(linear(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.fixture
def decoder(tmp_path: object) -> PlaitForCausalLM:
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=128, n_layer=2, n_head=4, vocab_size=300, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(str(tmp_path))
    return PlaitForCausalLM.from_pretrained(str(tmp_path)).eval()


def loss_and_gradients(model: PlaitForCausalLM) -> list[Tensor]:
    ids = torch.randint(0, 300, (2, 100), generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_a_model_trains_alike_and_goes_back(decoder: PlaitForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    state, expected = copy.deepcopy(decoder.state_dict()), loss_and_gradients(decoder)
    monkeypatch.setattr("plait.modeling.kernels.training.probe_kernels", lambda outputs, width: ALL_ONEDNN)
    assert decoder.choose_products() == 13  # six a layer, and a head of few tokens
    assert_same([*loss_and_gradients(decoder)], [*expected])
    assert decoder.state_dict().keys() == state.keys()
    other = copy.deepcopy(decoder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert_same([*loss_and_gradients(decoder)], [*expected])  # a copy's layers read the copy's weights
    drop_products(decoder)
    assert all(torch.equal(a, b) for a, b in zip(loss_and_gradients(decoder), expected, strict=True))


def test_probing_leaves_the_random_stream_alone(decoder: PlaitForCausalLM) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    choose_products(decoder)
    assert torch.equal(torch.rand(3), expected)


def test_sizes_that_do_not_gain_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plait.modeling.kernels.training.probe_kernels", lambda outputs, width: ALL_ONEDNN)
    narrow, wide = nn.Linear(LEAST_SIZE - 1, 500), nn.Linear(LEAST_SIZE, MOST_OUTPUTS + 1)
    half, served = nn.Linear(200, 200, dtype=torch.bfloat16), nn.Linear(LEAST_SIZE, MOST_OUTPUTS)
    assert choose_products(nn.Sequential(narrow, wide, half, served)) == 1
    assert isinstance(served.forward, AutotunedLinear)


def test_a_tie_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plait.modeling.kernels.training.measure_seconds", lambda kernels, a, b: [1.0, 1.0])
    assert measure_kernels(128, 128) == TORCH_KERNELS
    monkeypatch.setattr("plait.modeling.kernels.training.measure_seconds", lambda kernels, a, b: [1.0, 0.5])
    assert measure_kernels(128, 128) == ALL_ONEDNN


def test_a_kernel_must_be_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, onednn in ((0.96, True), (0.97, False), (0.98, False)):
        monkeypatch.setattr(training, "measure_seconds", lambda kernels, a, b, s=seconds: [1.0, s])
        assert measure_kernels(128, 128) == (ALL_ONEDNN if onednn else TORCH_KERNELS)


def test_products_are_probed_in_the_shapes_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def measure(kernels: object, a: Tensor, b: Tensor) -> list[float]:
        shapes.append((tuple(a.shape), tuple(b.shape)))
        return [1.0, 1.0]

    monkeypatch.setattr(training, "measure_seconds", measure)
    measure_kernels(256, 128)
    assert shapes == [((512, 128), (128, 256)), ((512, 256), (256, 128)), ((256, 512), (512, 128))]
    measure_kernels(4096, 1024)
    assert shapes[3][0] == (128, 1024)
    monkeypatch.setattr(training, "TRAINING_PROBE_WORK", 2**10)
    measure_kernels(256, 128)
    assert shapes[6][0] == (FEWEST_ROWS, 128)


def test_the_first_run_of_a_kernel_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [5, 9, 2, 1, 2, 1, 7, 5, 3, 2]  # of both kernels, in turns
    clock = iter([time for span in spans for time in (0, span)])
    monkeypatch.setattr(autotune.time, "process_time", lambda: next(clock))
    calls: list[str] = []
    kernels: list = [lambda a, b, bias: calls.append("first"), lambda a, b, bias: calls.append("second")]
    assert training.measure_seconds(kernels, torch.ones(1), torch.ones(1)) == [2, 1]
    assert calls == ["first", "second"] * 6


def test_without_onednn_no_layer_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(512, 512))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    chosen: dict[str, list[bool]] = {}
    assert choose_products(model, chosen=chosen) == 0 and not chosen


def test_the_products_of_a_size_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, str] = {}
    mixed = LinearKernels(multiply_by_onednn, multiply_by_torch, multiply_by_onednn)
    monkeypatch.setattr(training, "recall_choice", lambda key, measure: kept.setdefault(key, measure()))
    monkeypatch.setattr(training, "measure_kernels", lambda outputs, width: mixed)
    assert probe_kernels(256, 128) == mixed
    assert kept == {"training linear 256 x 128": "onednn torch onednn"}


@pytest.mark.parametrize("remembered", ["", "another torch torch", "onednn"])
def test_a_choice_that_this_version_does_not_know_is_torchs(remembered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "recall_choice", lambda key, measure: remembered)
    assert probe_kernels(256, 128) == TORCH_KERNELS
