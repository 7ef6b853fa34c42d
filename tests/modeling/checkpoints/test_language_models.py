"""Causal language models read from transformers' files by `PlaitForCausalLM`, against transformers."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor

from plait import PlaitForCausalLM, PlaitModel
from plait.modeling.checkpoints import export

from .text_models import GENERATORS, Saved, difference, inputs_of, save


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Each model once."""
    return cache(lambda name: save(name, tmp_path_factory.mktemp(name)))


@torch.no_grad()
def outputs_of(model: hf.PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits and hidden states, zeros where there is padding."""
    outputs = model(**inputs, output_hidden_states=True)
    padding = ~inputs["attention_mask"][..., None].bool()
    tensors = {f"hidden_states.{number}": state for number, state in enumerate(outputs.hidden_states)}
    tensors["logits"] = outputs.logits
    return {name: tensor.masked_fill(padding, 0) for name, tensor in tensors.items()}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", GENERATORS)
def test_logits_match_transformers(saved: Callable[[str], Saved], name: str, attention: str, side: str) -> None:
    theirs, folder = saved(name)
    theirs.set_attn_implementation(attention if theirs._supports_sdpa else "eager")
    inputs = inputs_of(name, side)
    model = PlaitForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    expected, found = outputs_of(theirs, inputs), outputs_of(model, inputs)
    if theirs._supports_sdpa:  # transformers' eager Llama takes its softmax in float32
        theirs.set_attn_implementation("sdpa")
    exact = outputs_of(theirs.double(), inputs)
    theirs.float()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert difference(found[key], tensor) <= 1e-5, key
        own = max(difference(tensor, exact[key]), torch.finfo(torch.float32).eps)
        assert difference(found[key], exact[key]) <= 2 * own, key
    with torch.no_grad():  # packed, as nothing is recorded
        logits = model(**inputs).logits.masked_fill(~inputs["attention_mask"][..., None].bool(), 0)
    assert difference(logits, expected["logits"]) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", GENERATORS)
def test_token_by_token_with_a_cache_gives_the_same(saved: Callable[[str], Saved], name: str) -> None:
    model = PlaitForCausalLM.from_pretrained(saved(name).folder).eval()
    inputs = inputs_of(name, "left")
    (ids, mask, positions), past, steps = inputs.values(), None, []
    for number in range(ids.shape[1]):
        now = slice(number, number + 1)
        outputs = model(
            ids[:, now],
            attention_mask=mask[:, : number + 1],
            position_ids=positions[:, now],
            past_key_values=past,
            use_cache=True,
        )
        past = outputs.past_key_values
        steps.append(outputs.logits)
    expected = outputs_of(model, inputs)["logits"]
    assert difference(torch.cat(steps, dim=1) * mask[..., None], expected) <= 1e-5


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", GENERATORS)
def test_generated_tokens_are_those_of_transformers(
    saved: Callable[[str], Saved], name: str, options: dict[str, Any]
) -> None:
    theirs, folder = saved(name)
    inputs = inputs_of(name, "left")
    inputs.pop("position_ids")
    model = PlaitForCausalLM.from_pretrained(folder).eval()
    ours, expected = (each.generate(**inputs, max_new_tokens=10, **options) for each in (model, theirs))
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_language_model_comes_back_bit_equal(saved: Callable[[str], Saved], name: str, tmp_path: Path) -> None:
    theirs = saved(name)
    model = PlaitForCausalLM.from_pretrained(theirs.folder)
    export(model, tmp_path / "theirs")
    ours = load_file(tmp_path / "theirs" / "model.safetensors")
    assert ours.keys() == theirs.file().keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.file().items())
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert type(again) is type(theirs.model)
    assert again.config.tie_word_embeddings == theirs.model.config.tie_word_embeddings


@torch.no_grad()
@pytest.mark.parametrize("name", GENERATORS)
def test_saved_and_loaded_it_is_the_same(saved: Callable[[str], Saved], name: str, tmp_path: Path) -> None:
    model = PlaitForCausalLM.from_pretrained(saved(name).folder).eval()
    model.save_pretrained(tmp_path)
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is PlaitForCausalLM
    inputs = inputs_of(name, "left")
    assert torch.equal(outputs_of(again, inputs)["logits"], outputs_of(model, inputs)["logits"])
    base = PlaitModel.from_pretrained(tmp_path).eval()
    states = base(**inputs).last_hidden_state
    assert torch.equal(states, model.model(**inputs).last_hidden_state)
