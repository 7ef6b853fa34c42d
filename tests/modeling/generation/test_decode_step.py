"""The lean step of generation computes what the modules compute, whatever stands on them."""

from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from plait import PlaitForCausalLM
from plait.modeling.generation import mixin as generation
from plait.modeling.generation.decode_step import DecodeStep, build_decode_step

from .. import zoo
from .test_generate import CASES, prompt_of

SWITCHES: dict[str, dict[str, Any]] = {
    "post norm": {"norm_position": "post", "output_norm": False, "input_norm": True},
    "layer norm": {"norm_type": "layer_norm", "gated_mlp": False, "hidden_act": "gelu_new"},
    "layer scale": {"layer_scale": 0.5},
    "normed heads": {"qk_norm": True, "num_key_value_heads": 2},
    "learned positions": {"rope_parameters": None, "position_type": "learned", "embedding_scale": 2.0},
    "scales of scores": {"attention_scale": 1.0, "scale_by_layer": True, "qkv_bias": False},
    "narrow embeddings": {"embedding_size": 16},
    "another activation": {"hidden_act": "relu2"},
}
OPTIONS = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def logits_of(model: Any, prompt: dict[str, Tensor], **options: Any) -> Tensor:
    model.generation_config.eos_token_id = None
    return torch.stack(model.generate(**prompt, **OPTIONS, **options).logits)


def modules_alone(model: Any, prompt: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, **options: Any) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(generation, "build_decode_step", lambda *parts: None)
        return logits_of(model, prompt, **options)


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every lean step."""
    steps: list[int] = []
    step = DecodeStep.__call__
    monkeypatch.setattr(DecodeStep, "__call__", lambda *inputs: steps.append(1) or step(*inputs))
    return steps


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("beams", [1, 3])
def test_every_class_and_shape(case: tuple[str, str], beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt, steps = zoo.build(*case), prompt_of(case[1]), count_steps(monkeypatch)
    lean = logits_of(model, prompt, num_beams=beams)
    assert len(steps) == 5 and model.decode_step is None
    torch.testing.assert_close(lean, modules_alone(model, prompt, monkeypatch, num_beams=beams), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = {**zoo.DECODER, **SWITCHES[switch]}
    monkeypatch.setitem(zoo.CONFIGS, "switched", {"decoder_config": decoder})
    tied = {"tie_word_embeddings": False} if "embedding_size" in SWITCHES[switch] else {}
    model, prompt, steps = (
        zoo.build("PlaitForCausalLM", "switched", **tied),
        prompt_of("decoder"),
        count_steps(monkeypatch),
    )
    lean = logits_of(model, prompt)
    assert len(steps) == 5
    torch.testing.assert_close(lean, modules_alone(model, prompt, monkeypatch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", ["self_attn.q_proj", "mlp.act", "mlp_norm", "mlp", "self_attn", ""])
def test_hooks_are_called(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    calls: list[int] = []
    layer = model.model.decoder.transformer.layers[1]
    layer.get_submodule(path).register_forward_hook(lambda *arguments: calls.append(1))
    assert len(logits_of(model, prompt)) == len(calls) == 6


def test_a_hook_may_change_what_a_leaf_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    before = logits_of(model, prompt)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + 1)
    torch.testing.assert_close(logits_of(model, prompt), before + 1)


def test_adapters_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    before, steps = logits_of(model, prompt), count_steps(monkeypatch)
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    adapted = logits_of(model.eval(), prompt)
    assert len(steps) == OPTIONS["max_new_tokens"] - 1  # each leaf with an adapter is called as it is
    assert (adapted - before).abs().max() > 1e-3
    torch.testing.assert_close(adapted, modules_alone(model, prompt, monkeypatch), atol=1e-5, rtol=1e-5)


def test_changed_weights_are_seen_by_the_next_generation() -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    before = logits_of(model, prompt)
    layer = model.model.decoder.transformer.layers[0]
    layer.mlp.up_proj.weight = nn.Parameter(layer.mlp.up_proj.weight * 2)
    assert not torch.equal(logits_of(model, prompt), before)


def test_what_is_not_made_lean() -> None:
    model = zoo.build("PlaitForCausalLM", "decoder")
    decoder = model.model.decoder
    assert build_decode_step(decoder, model.lm_head) is not None
    assert build_decode_step(decoder.train(), model.lm_head) is None
    decoder.eval().transformer.layer_types = ["full_attention", "sliding_attention"]
    assert build_decode_step(decoder, model.lm_head) is None


def test_eager_attention_stays_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    model: PlaitForCausalLM = zoo.build("PlaitForCausalLM", "decoder")
    steps = count_steps(monkeypatch)
    model.set_attn_implementation("eager")
    logits_of(model, prompt_of("decoder"))
    assert not steps
