"""Special tokens are read from the root config, and for `generate` from its options: nowhere else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, GenerationConfig, GPT2Config

from plait import PlaitConfig, PlaitForCausalLM, PlaitForConditionalGeneration

from ..generation.test_generate import GREEDY, prompt_of
from ..zoo import CONFIGS, build, inputs_of

DECODER = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
NAMES = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def tokens_of(config: PlaitConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in NAMES)


@pytest.mark.parametrize(
    ("part", "root", "expected"),
    [
        ({"pad_token_id": 3, "bos_token_id": 4, "eos_token_id": 5}, {}, (3, 4, 5, 4)),
        ({"eos_token_id": [5, 6]}, {}, (5, None, [5, 6], 5)),
        ({"pad_token_id": 3, "eos_token_id": 5}, {"pad_token_id": 7, "decoder_start_token_id": 8}, (7, None, 5, 8)),
        ({}, {}, (None, None, None, None)),
    ],
)
def test_a_decoders_tokens_are_lifted(
    part: dict[str, Any], root: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    config = PlaitConfig(decoder_config={**DECODER, **part}, **root)
    assert tokens_of(config) == expected
    config.save_pretrained(tmp_path)
    assert tokens_of(PlaitConfig.from_pretrained(tmp_path)) == expected


def test_composed_and_built_configs_say_the_same() -> None:
    sizes = {"vocab_size": 40, "n_embd": 32, "n_layer": 1, "n_head": 4, "bos_token_id": 6, "eos_token_id": 7}
    model = PlaitForCausalLM.compose(decoder=GPT2Config(**sizes), verbose=False)
    assert tokens_of(model.config) == (7, 6, 7, 6)
    assert model.generation_config.pad_token_id == 7
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = BertConfig(**sizes, intermediate_size=32, pad_token_id=3)
    translator = PlaitForConditionalGeneration.compose(text=text, decoder=model, verbose=False)
    assert tokens_of(translator.config) == (7, 6, 7, 6)


def test_a_part_that_says_otherwise_changes_nothing() -> None:
    model, inputs = build("PlaitForConditionalGeneration", "translator"), inputs_of("translator")
    labels = inputs.pop("decoder_input_ids").masked_fill(torch.tensor([[False] * 3 + [True] * 2]), -100)
    loss, text = model(**inputs, labels=labels).loss, model.generate(**prompt_of("translator"), **GREEDY)
    for name in NAMES[:3]:
        setattr(model.config.decoder_config, name, 30)
    assert torch.equal(model(**inputs, labels=labels).loss, loss)
    assert torch.equal(model.generate(**prompt_of("translator"), **GREEDY), text)


@pytest.mark.parametrize("place", ["argument", "config", "positional config", "model"])
def test_the_start_token_is_the_one_that_is_asked_for(place: str) -> None:
    model, prompt = build("PlaitForConditionalGeneration", "captioner"), prompt_of("captioner")
    given = GenerationConfig(decoder_start_token_id=9)
    if place == "model":
        model.generation_config.decoder_start_token_id = 9
    options: dict[str, Any] = {"argument": {"decoder_start_token_id": 9}, "config": {"generation_config": given}}
    options = {**options.get(place, {}), **prompt}
    args = (options.pop("pixel_values"), given) if place == "positional config" else ()
    begun = torch.tensor([[9, 5]] * 3)
    assert torch.equal(model.generate(*args, **options, **GREEDY)[:, :1], begun[:, :1])
    for prefix in (begun, begun[:, 1:]):
        text = model.generate(*args, **options, decoder_input_ids=prefix, **GREEDY)
        assert torch.equal(text[:, :2], begun) and text.shape[1] <= 2 + GREEDY["max_new_tokens"]
    model.generation_config.forced_decoder_ids = [[1, 6]]
    assert model.generate(*args, **options, **GREEDY)[:, :2].tolist() == [[9, 6]] * 3


def test_a_given_generation_config_keeps_the_models_suppressed_tokens() -> None:
    model, prompt = build("PlaitForCausalLM", "inline"), prompt_of("inline")
    expected = model.generate(**prompt, **GREEDY)
    banned = int(expected[0, prompt["input_ids"].shape[1]])
    model.generation_config.suppress_tokens = [banned]
    assert banned not in model.generate(**prompt, generation_config=GenerationConfig(**GREEDY))[:, 12:]


def test_labels_without_a_start_token_are_an_error() -> None:
    config = PlaitConfig(**CONFIGS["translator"])
    model, inputs = PlaitForConditionalGeneration(config), inputs_of("translator")
    labels = inputs.pop("decoder_input_ids")
    with pytest.raises(ValueError, match="decoder_start_token_id is None"):
        model(**inputs, labels=labels)
    with pytest.raises(ValueError, match="decoder_start_token_id is None"):
        model.generate(**inputs, decoder_input_ids=labels)
