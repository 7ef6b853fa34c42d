"""The decode step chooses its kernels once, computes packed layers itself and builds one mask for all layers; whatever
begins to watch torch's operations sees torch's own."""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import LogitsProcessorList

from plait.modeling.generation.decode_step import build_added_mask
from plait.modeling.kernels import linear as kernels
from plait.modeling.kernels.install import install_kernel
from plait.modeling.kernels.prepacking import KernelLayout, PackedLinear, PlainLinear, TransposedLinear

from .. import zoo
from .test_decode_step import logits_of, modules_alone
from .test_generate import prompt_of


class ProductsSeen(TorchFunctionMode):
    """Counts the calls of torch's own linear layers."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is F.linear
        return func(*args, **(kwargs or {}))


def test_what_begins_to_watch_during_generation_sees_torchs_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LARGE_WEIGHT", 1)
    model, prompt, seen = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder"), ProductsSeen()

    def watch(input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] == 9:  # two tokens have been generated
            seen.__enter__()
        return scores

    expected = logits_of(model, prompt)
    try:
        logits = logits_of(model, prompt, logits_processor=LogitsProcessorList([watch]))
    finally:
        seen.__exit__(None, None, None)
    linears = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert seen.count == 3 * linears  # of six tokens, three are generated while something watches
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_kernel_is_selected_once_for_each_weight_and_number_of_rows(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "LARGE_WEIGHT", 1)
    model, asked = zoo.build("PlaitForCausalLM", "decoder"), []
    select = kernels.select_kernel
    monkeypatch.setattr(kernels, "select_kernel", lambda *arguments: asked.append(1) or select(*arguments))
    prompt = {name: value[:1].expand(rows, -1).contiguous() for name, value in prompt_of("decoder").items()}
    logits = logits_of(model, prompt)
    linears = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert linears <= len(asked) <= 2 * linears  # in the first of five steps, and some in the prefill
    torch.testing.assert_close(logits, modules_alone(model, prompt, monkeypatch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("one", [PlainLinear, TransposedLinear])
@pytest.mark.parametrize("rows", [1, 3])
def test_packed_layers_compute_what_the_modules_compute(rows: int, one: type) -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder").eval(), prompt_of("decoder")
    prompt = {name: value[:1].expand(rows, -1).contiguous() for name, value in prompt.items()}
    expected = logits_of(model, prompt)
    head = model.lm_head
    install_kernel(head, PackedLinear(head, KernelLayout(one, PlainLinear)))
    torch.testing.assert_close(logits_of(model, prompt), expected, atol=1e-5, rtol=1e-5)
    head.register_forward_hook(lambda module, inputs, output: output + 1)
    torch.testing.assert_close(logits_of(model, prompt), expected + 1, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("mask", "added"),
    [
        (None, None),
        (torch.ones(2, 3), None),
        (torch.ones(2, 3).bool(), None),
        (torch.tensor([[0, 1, 1], [1, 1, 1]]), [[-inf, 0, 0], [0, 0, 0]]),
        (torch.tensor([[[[True, False, True]]]]), [[0, -inf, 0]]),
        (torch.tensor([[[[-1.0, -2.0, -3.0]]]]), [[-1, -2, -3]]),
        (torch.zeros(1, 1, 1, 3), [[0, 0, 0]]),
    ],
    ids=str,
)
def test_the_mask_of_a_step_is_added_to_the_scores(mask: Tensor | None, added: list[list[float]] | None) -> None:
    found = build_added_mask(mask, torch.zeros(2, 1, 4))
    assert (found is None) == (added is None)
    if found is not None:
        assert found.shape[1:] == (1, 1, 3) and torch.equal(found[:, 0, 0], torch.tensor(added).float())


@pytest.mark.parametrize("padded", [False, True])
def test_a_step_under_autocast_computes_what_the_modules_compute(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    prompt["attention_mask"][0, : 2 * padded] = 0
    with torch.autocast("cpu", torch.bfloat16):
        logits = logits_of(model, prompt)
        expected = modules_alone(model, prompt, monkeypatch)
    torch.testing.assert_close(logits, expected, atol=0.02, rtol=0.02)
