"""A static cache and compilation as one graph: what `_can_compile_fullgraph` promises, in every class."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CompileConfig, GPTNeoXConfig, GPTNeoXForCausalLM, TrOCRConfig, TrOCRForCausalLM

from plait import PlaitForCausalLM

from ..zoo import CONFIGS, GENERATING, build, inputs_of

CASES = [(class_name, shape) for class_name, shapes in GENERATING.items() for shape in shapes]
KINDS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "learned": {"position_type": "learned", "rope_parameters": None},
    "as in BERT": {"position_type": "learned", "rope_parameters": None, "type_vocab_size": 2, "lm_transform": True},
}
OPTIONS = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
SIZES = {"vocab_size": 40, "hidden_size": 32, "max_position_embeddings": 40, "pad_token_id": 0}


def generate_both_ways(model: Any, prompt: dict[str, Tensor]) -> tuple[Any, Any]:
    """The outputs with a dynamic cache, and with a static one and every step compiled."""
    torch._dynamo.reset()
    model.generation_config.eos_token_id = None
    expected = model.generate(**prompt, **OPTIONS)
    compilation: Any = CompileConfig(backend="eager", mode=None, fullgraph=True)
    compilation._compile_all_devices = True
    options = {"cache_implementation": "static", "compile_config": compilation}
    return expected, model.generate(**prompt, **OPTIONS, **options)


def assert_same(ours: Any, expected: Any) -> None:
    assert torch.equal(ours.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(expected.logits), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_class_compiles_as_one_graph(case: tuple[str, str], kind: str) -> None:
    model: Any = build(*case, decoder_config={**CONFIGS[case[1]]["decoder_config"], **KINDS[kind]})
    prompt = inputs_of(case[1])
    if not model.config.is_encoder_decoder:  # padded on the left
        order = prompt["attention_mask"].argsort(dim=1, stable=True)
        prompt |= {name: prompt[name].gather(1, order) for name in ("input_ids", "attention_mask")}
    assert model._can_compile_fullgraph
    expected, compiled = generate_both_ways(model, prompt)
    assert_same(compiled, expected)
    assert model._compiled_call is not None


@pytest.mark.slow
def test_images_of_a_compiled_prompt_are_read() -> None:
    model: Any = build("PlaitForCausalLM", "inline")
    inputs = {**inputs_of("inline"), "use_cache": False}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("compiles", [True, False])
def test_wrapped_decoders_say_whether_they_compile(compiles: bool, tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    heads = {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 40}
    neox, trocr = GPTNeoXConfig(**SIZES, **sizes), TrOCRConfig(**SIZES, **heads)
    model = GPTNeoXForCausalLM(neox) if compiles else TrOCRForCausalLM(trocr)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    ours = PlaitForCausalLM.from_pretrained(tmp_path)
    assert ours._can_compile_fullgraph is compiles
    if not compiles:  # the steps are computed without compiling
        ids = torch.tensor([[3, 7, 9]])
        expected, static = generate_both_ways(ours, {"input_ids": ids})
        assert_same(static, expected)
