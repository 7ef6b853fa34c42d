"""What a decoder reads, given by hand or to an assistant."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ..generation.test_generate import GREEDY, prompt_of
from ..zoo import CONTEXT_SHAPES, build


@torch.no_grad()
@pytest.mark.parametrize("form", [BaseModelOutput, lambda tokens: (tokens,)], ids=["output", "tuple"])
def test_an_encoders_output_comes_with_its_mask(form: Callable[[Tensor], Any]) -> None:
    """As transformers' encoders give it: the padding is told by `attention_mask`."""
    model, prompt = build("PlaitForConditionalGeneration", "translator"), prompt_of("translator")
    mask, begun = prompt["attention_mask"], torch.tensor([[1, 5, 9]] * 3)
    context = model.model.encode_context(**prompt)
    given = {"encoder_outputs": form(context.last_hidden_state), "attention_mask": mask}
    expected = model(**prompt, decoder_input_ids=begun).logits
    assert torch.equal(model(**given, decoder_input_ids=begun).logits, expected)
    assert torch.equal(model.generate(**given, **GREEDY), model.generate(**prompt, **GREEDY))
    with pytest.raises(ValueError, match=r"\(3, 7\) tokens, attention_mask is \(3, 4\)"):
        model.generate(encoder_outputs=given["encoder_outputs"], attention_mask=mask[:, :4], **GREEDY)


def test_a_decoder_without_text_is_an_error() -> None:
    model, prompt = build("PlaitForConditionalGeneration", "captioner"), prompt_of("captioner")
    with pytest.raises(ValueError, match="pass decoder_input_ids, or labels"):
        model(**prompt)


@pytest.mark.parametrize("shape", CONTEXT_SHAPES)
def test_an_assistant_reads_with_its_own_towers(shape: str) -> None:
    model, prompt = build("PlaitForConditionalGeneration", shape), prompt_of(shape, batch=1)
    model.generation_config.eos_token_id = None
    assistant = build("PlaitForConditionalGeneration", shape)
    runs: list[int] = []
    for tower in assistant.model.towers.values():
        tower.register_forward_pre_hook(lambda *arguments: runs.append(1))
    assert torch.equal(
        model.generate(**prompt, **GREEDY, assistant_model=assistant), model.generate(**prompt, **GREEDY)
    )
    assert len(runs) == len(assistant.model.towers) and assistant.assistant_context is None
    context = model.model.encode_context(**prompt)
    with pytest.raises(ValueError, match="assistant_model has towers of its own"):
        model.generate(encoder_outputs=context, **GREEDY, assistant_model=assistant)
