"""Token ids outside the vocabulary, and numbers of beams below one, are errors of plait with the value."""

from typing import Any

import pytest
import torch
from transformers import BertConfig, GPT2Config

from plait import PlaitConfig, PlaitForCausalLM, PlaitForConditionalGeneration, PlaitModel
from plait.configuration import PlaitDecoderConfig, PlaitTextConfig
from plait.modeling.core.rows import check_ids

SIZES: dict[str, Any] = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WRAPPED = BertConfig(**SIZES, intermediate_size=32)
GPT2 = GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=32)


def build_models() -> dict[str, Any]:
    """Returns models whose text reaches a tower, a decoder, and those of transformers."""
    text, decoder = PlaitTextConfig(**SIZES), PlaitDecoderConfig(**SIZES, is_causal=True)
    crossed = PlaitDecoderConfig(**SIZES, is_causal=True, cross_attention=True)
    return {
        "tower": PlaitModel(PlaitConfig(text_config=text)),
        "wrapped tower": PlaitModel(PlaitConfig(text_config=WRAPPED)),
        "decoder": PlaitForCausalLM(PlaitConfig(decoder_config=decoder)),
        "wrapped decoder": PlaitForCausalLM(PlaitConfig(decoder_config=GPT2)),
        "pair": PlaitForConditionalGeneration(
            PlaitConfig(text_config=text, decoder_config=crossed, is_encoder_decoder=True, decoder_start_token_id=1)
        ),
    }


MODELS = build_models()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("wrong", [20, 999, -1, -100])
def test_an_id_outside_the_vocabulary_is_named_with_its_place(name: str, wrong: int) -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, wrong]])
    inputs = {"decoder_input_ids": torch.ones(2, 1, dtype=torch.long)} if name == "pair" else {}
    said = rf"row 1, token 2: {wrong} is not one of the 20 tokens 0 \.\. 19"
    with torch.no_grad(), pytest.raises(ValueError, match=said):
        MODELS[name].eval()(input_ids=ids, **inputs)
    if hasattr(MODELS[name], "generate"):
        with pytest.raises(ValueError, match=said):
            MODELS[name].generate(input_ids=ids, max_new_tokens=2, pad_token_id=0)


def test_segments_and_positions_outside_their_tables_are_named() -> None:
    tower = PlaitModel(PlaitConfig(text_config=PlaitTextConfig(**SIZES, type_vocab_size=2, max_position_embeddings=8)))
    ids = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="row 0, token 1: 5 is not one of the 2 segments"):
        tower(input_ids=ids, token_type_ids=torch.tensor([[0, 5, 0]]))
    with pytest.raises(ValueError, match="row 0, token 2: 8 is not one of the 8 positions"):
        tower(input_ids=ids, position_ids=torch.tensor([[0, 1, 8]]))


@pytest.mark.parametrize("name", ["decoder", "pair"])
@pytest.mark.parametrize("option", ["num_beams", "num_return_sequences"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_numbers_below_one_are_refused(name: str, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}: pass a whole number, 1 or more"):
        MODELS[name].generate(input_ids=torch.ones(1, 2, dtype=torch.long), max_new_tokens=2, **{option: value})


@pytest.mark.parametrize("name", ["decoder", "pair"])
def test_a_row_without_a_token_is_named(name: str) -> None:
    ids, mask = torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [0, 0, 0]])
    with pytest.raises(ValueError, match="row 1 of the batch has no modality at all"):
        MODELS[name].generate(input_ids=ids, attention_mask=mask, max_new_tokens=2)


def test_ids_that_fit_are_not_an_error() -> None:
    for ids in (torch.tensor([[0, 19]]), torch.zeros(0, 3, dtype=torch.long), None, torch.tensor([3])):
        check_ids(ids, 20, "tokens")
    with pytest.raises(ValueError, match="place 1: 20 is not one of the 20 tokens"):
        check_ids(torch.tensor([3, 20]), 20, "tokens")
