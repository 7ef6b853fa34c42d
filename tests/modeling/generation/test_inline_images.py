"""Images inside a text whose embeddings are passed, and in the prompt of an assistant model."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ..zoo import build, inputs_of

GREEDY = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture
def model() -> Any:
    built: Any = build("PlaitForCausalLM", "inline")
    built.generation_config.eos_token_id = None
    return built


def draw_prompt(rows: int) -> dict[str, Tensor]:
    """A prompt with images, padded on the left."""
    inputs = inputs_of("inline", rows)
    order = inputs["attention_mask"].argsort(dim=1, stable=True)
    return inputs | {name: inputs[name].gather(1, order) for name in ("input_ids", "attention_mask")}


def embed(model: Any, prompt: dict[str, Tensor]) -> dict[str, Tensor]:
    rest = {name: value for name, value in prompt.items() if name != "input_ids"}
    return rest | {"inputs_embeds": model.get_input_embeddings()(prompt["input_ids"])}


@pytest.mark.parametrize("scale", [1.0, 4.0])
@torch.no_grad()
def test_embeddings_take_images(model: Any, scale: float) -> None:
    model.model.decoder.embeddings.scale = scale
    prompt = draw_prompt(3)
    torch.testing.assert_close(model(**embed(model, prompt)).logits, model(**prompt).logits)
    for options in ({}, {"num_beams": 2}, {"cache_implementation": "static", "disable_compile": True}):
        text = model.generate(**embed(model, prompt), **GREEDY, **options)
        assert torch.equal(text, model.generate(**prompt, **GREEDY, **options)[:, prompt["input_ids"].shape[1] :])


def test_gradients_reach_the_image_tower_through_embeddings(model: Any) -> None:
    prompt, gradients = draw_prompt(3), []
    labels = prompt["input_ids"].masked_fill(prompt["attention_mask"] == 0, -100)
    for inputs in (prompt, embed(model, prompt)):
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        gradients.append([weight.grad.clone() for weight in model.model.towers.parameters() if weight.grad is not None])
    assert gradients[0] and any(gradient.abs().max() > 0 for gradient in gradients[0])
    for ours, expected in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(ours, expected)


def test_embeddings_of_image_tokens_need_images(model: Any) -> None:
    embedded = embed(model, draw_prompt(3))
    del embedded["pixel_values"]
    with pytest.raises(ValueError, match="row 0 has image tokens in its text, but there are no images"):
        model(**embedded)


@pytest.mark.parametrize("kind", ["with images", "text alone", "the model itself"])
def test_an_assistant_changes_nothing(model: Any, kind: str) -> None:
    assistant: Any = model
    if kind != "the model itself":
        assistant = build("PlaitForCausalLM", "inline" if kind == "with images" else "decoder")
        with torch.no_grad():
            for parameter in assistant.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    prompt = draw_prompt(1)
    expected = model.generate(**prompt, **GREEDY)
    assert torch.equal(model.generate(**prompt, **GREEDY, assistant_model=assistant), expected)
    assert assistant.assistant_images is None


def test_an_assistant_reads_its_own_images(model: Any) -> None:
    assistant, read = build("PlaitForCausalLM", "inline", vision_config=WIDER), []
    assistant.model.towers["image"].register_forward_hook(lambda *arguments: read.append(1))
    prompt = draw_prompt(1)
    expected = model.generate(**prompt, **GREEDY)
    assert torch.equal(model.generate(**prompt, **GREEDY, assistant_model=assistant), expected) and read == [1]
    given = {"image": model.model.encode("image", pixel_values=prompt.pop("pixel_values"))}
    with pytest.raises(ValueError, match="pass pixel_values instead of encoder_outputs"):
        model.generate(**prompt, encoder_outputs=given, **GREEDY, assistant_model=assistant)


WIDER = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
