"""The loss over a vocabulary together with the embedding that is tied to it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import peft
import pytest
import torch
from torch import nn

from plait import PlaitConfig, PlaitForCausalLM, PlaitForConditionalGeneration
from plait.modeling.kernels.install import find_kernel
from plait.modeling.losses.language_model import (
    LOGITS_PER_CHUNK,
    SharedWeight,
    add_product,
    check_label_ids,
    check_token_labels,
    compute_loss_and_gradient,
    count_chunks,
    language_model_loss,
)

CORE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 5000, "pad_token_id": 0}
Make = Callable[[], Any]


def causal(**core: int) -> PlaitForCausalLM:
    torch.manual_seed(0)
    decoder = {**CORE, "is_causal": True, **core}
    return PlaitForCausalLM(PlaitConfig(decoder_config=decoder, tie_word_embeddings=True)).train()


def conditional() -> PlaitForConditionalGeneration:
    torch.manual_seed(0)
    decoder = {**CORE, "is_causal": True, "cross_attention": True}
    tokens = {"pad_token_id": 0, "decoder_start_token_id": 1}
    config = PlaitConfig(
        text_config=dict(CORE), decoder_config=decoder, tie_word_embeddings=True, is_encoder_decoder=True, **tokens
    )
    return PlaitForConditionalGeneration(config).train()


def step(model: Any, seed: int = 0) -> None:
    ids = torch.randint(2, 50, (2, 7), generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)  # dropout
    model(input_ids=ids, labels=ids).loss.backward()


def plain(embedding: Any, head: Any) -> AbstractContextManager[torch.Tensor]:
    return nullcontext(head.weight)


@pytest.mark.parametrize("make", [causal, conditional])
def test_a_tied_embedding_has_the_gradient_of_a_dense_lookup(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one step, and of two that are accumulated."""
    model, dense = make(), make()
    for seed in (0, 1):
        step(model, seed)
    monkeypatch.setattr("plait.modeling.heads.language_model.share_weight", plain)
    for seed in (0, 1):
        step(dense, seed)
    for (name, found), expected in zip(model.named_parameters(), dense.parameters(), strict=True):
        assert found.grad.layout == torch.strided, name
        torch.testing.assert_close(found.grad, expected.grad, msg=name)
    assert find_kernel(model.get_input_embeddings()) is None


def test_the_vocabulary_stands_in_memory_once_a_step() -> None:
    """Beside what a step leaves, it holds no second gradient of the embedding."""
    model = causal(hidden_size=128)
    step(model)
    model.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step(model)
    held, most = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    weight = model.get_input_embeddings().weight
    assert held >= weight.nbytes
    assert most - held < weight.nbytes / 2


@pytest.mark.parametrize("labels", [True, False])
def test_without_the_loss_or_after_a_mistake_the_lookup_is_dense(labels: bool) -> None:
    model = causal()
    if labels:
        with pytest.raises(ValueError, match="label 6000"):
            model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6000]]))
    model(input_ids=torch.tensor([[5, 6]])).logits.sum().backward()
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding) and find_kernel(embedding) is None
    assert embedding.weight.grad is not None and embedding.weight.grad.layout == torch.strided


def test_gradients_from_elsewhere_are_added() -> None:
    """A penalty on the weight, whose gradient comes first."""
    found, ids = [], torch.tensor([[5, 6, 7]])
    for penalised in (False, True):
        model = causal()
        weight = model.get_input_embeddings().weight
        loss = model(input_ids=ids, labels=ids).loss
        (loss + weight.square().sum() if penalised else loss).backward()
        found.append(weight.grad)
    torch.testing.assert_close(found[1], found[0] + 2 * weight.detach())


def test_hooks_of_the_embedding_are_called() -> None:
    model, seen = causal(), []
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids, labels=ids).loss.backward()
    torch.testing.assert_close(seen[0], model.get_input_embeddings().weight[ids])


def test_what_is_frozen_stays_without_gradient() -> None:
    model, ids = causal(), torch.tensor([[5, 6, 7]])
    model.get_input_embeddings().requires_grad_(False)
    model(input_ids=ids, labels=ids).loss.backward()
    assert model.get_input_embeddings().weight.grad is None


def test_all_labels_ignored_leaves_a_dense_gradient_of_zeros() -> None:
    model = causal()
    model(input_ids=torch.tensor([[5, 6]]), labels=torch.full((1, 2), -100)).loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient.layout == torch.strided and not gradient.any()


@pytest.mark.parametrize("make", [causal, conditional])
def test_a_hook_on_the_head_changes_the_loss(make: Make) -> None:
    """In training as in evaluation: the loss is then computed from the logits."""
    model, ids, losses = make(), torch.tensor([[5, 6, 7]]), []
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: output * 2)
    for training in (True, False):
        torch.manual_seed(0)
        losses.append(model.train(training)(input_ids=ids, labels=ids).loss)
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("make", [causal, conditional])
def test_an_adapter_on_the_head_is_trained(make: Make) -> None:
    model, ids = make(), torch.tensor([[5, 6, 7]])
    model.add_adapter(peft.LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    loss = model.train()(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"lora_A", "lora_B"}
    torch.testing.assert_close(model.eval()(input_ids=ids, labels=ids).loss, loss)


@pytest.mark.parametrize("labels", [[0, 9], [-100, 9], [-100], [], [3]])
def test_labels_within_the_vocabulary_pass(labels: list[int]) -> None:
    check_label_ids(torch.tensor(labels, dtype=torch.long), 10)


@pytest.mark.parametrize(("labels", "wrong"), [([0, 10], 10), ([-1, 3], -1), ([-101, 3], -101), ([-100, 11], 11)])
def test_a_label_beside_the_vocabulary_is_named(labels: list[int], wrong: int) -> None:
    with pytest.raises(ValueError, match=f"label {wrong} is no token of a vocabulary of 10"):
        check_label_ids(torch.tensor(labels), 10)


@pytest.mark.parametrize("shape", [(2, 3), (3, 4), (2, 4, 1)])
def test_labels_of_another_shape_than_the_text(shape: tuple[int, ...]) -> None:
    check_token_labels(torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, 8), 10)
    with pytest.raises(ValueError, match=r"but the text is \(2, 4\): pass one label for each token"):
        check_token_labels(torch.zeros(shape, dtype=torch.long), torch.zeros(2, 4, 8), 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_chunks_loss_and_gradient_are_those_of_autograd(dtype: torch.dtype, smoothing: float) -> None:
    """Low precision is computed in float32, without being asked for a gradient too."""
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 7).to(dtype), torch.tensor([0, 6, 3, 3, 1])
    wide = logits.double().requires_grad_()
    expected = nn.functional.cross_entropy(wide, labels, reduction="sum", label_smoothing=smoothing)
    expected.backward()
    loss, slope = compute_loss_and_gradient(logits.clone(), labels, smoothing, True)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) == slope.dtype
    exact = 1e-12 if dtype == torch.float64 else 1e-6
    assert loss.item() == pytest.approx(expected.item(), rel=exact)
    torch.testing.assert_close(slope.double(), wide.grad, rtol=0, atol=exact)
    alone, nothing = compute_loss_and_gradient(logits.clone(), labels, smoothing, False)
    assert nothing is None and alone.item() == loss.item()


def test_the_divisor_may_be_given_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 4), torch.randn(9, 4), torch.randn(9)
    labels = torch.randint(9, (2, 5))
    labels[0, :3] = -100
    flat = nn.functional.cross_entropy((x @ weight.T + bias).flatten(0, 1), labels.flatten(), reduction="sum")
    assert language_model_loss(x, weight, bias, labels).item() == pytest.approx(flat.item() / 7, rel=1e-5)
    for divisor in (11, torch.tensor(11)):
        assert language_model_loss(x, weight, bias, labels, divisor).item() == pytest.approx(flat.item() / 11, rel=1e-5)
    whole = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    parts = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    language_model_loss(*whole, labels, None, 0.1).backward()
    monkeypatch.setitem(LOGITS_PER_CHUNK, "cpu", 18)
    assert count_chunks(x[0], weight) == 1 + 45 // 18 and count_chunks(x[0, :1], weight) == 1
    assert count_chunks(x[0, :2], weight) == 2
    language_model_loss(*parts, labels, None, 0.1).backward()
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_a_second_backward_of_the_same_loss_is_an_error() -> None:
    weight = torch.randn(9, 4, requires_grad=True)
    loss = language_model_loss(torch.randn(1, 3, 4), weight, None, torch.tensor([[1, 2, 3]]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="used up by a first backward"):
        loss.backward()


def test_a_product_is_added_or_written() -> None:
    a, b = torch.randn(3, 2), torch.randn(2, 4)
    for dtype in (torch.float32, torch.float64):
        total = torch.full((3, 4), 2.0, dtype=dtype)
        add_product(total, a, b, begun=True)
        torch.testing.assert_close(total, 2 + (a @ b).to(dtype), rtol=0, atol=1e-6)
        add_product(total, a, b, begun=False)
        torch.testing.assert_close(total, (a @ b).to(dtype), rtol=0, atol=1e-6)


def test_the_two_gradients_of_a_shared_weight_are_added() -> None:
    """Also where only one of its two uses has any."""
    ids, x = torch.tensor([1, 3, 1]), torch.randn(2, 4)
    for looked_up, projected in ((True, True), (True, False), (False, True)):
        weight, plain = (torch.arange(20.0).view(5, 4).requires_grad_() for _ in range(2))
        rows, projection = SharedWeight.apply(weight)
        losses = []
        for table, matrix in ((rows, projection), (plain, plain)):
            lookup = nn.functional.embedding(ids, table, sparse=table is rows).square().sum()
            losses.append(lookup * looked_up + (x @ matrix.T).square().sum() if looked_up and projected
                          else lookup if looked_up else (x @ matrix.T).square().sum())  # fmt: skip
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(weight.grad, plain.grad)
        assert weight.grad.layout == torch.strided


def test_a_single_label_is_not_averaged_with_anything() -> None:
    x, weight = torch.randn(1, 4, 8), torch.randn(20, 8)
    labels = torch.tensor([[-100, 3, -100, -100]])
    expected = nn.functional.cross_entropy(x[0, 1:2] @ weight.T, labels[0, 1:2])
    torch.testing.assert_close(language_model_loss(x, weight, None, labels), expected)
