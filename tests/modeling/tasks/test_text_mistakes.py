"""What does not fit a decoder's text is named before anything is computed wrongly."""

from pathlib import Path
from typing import Any

import pytest
import torch

from plait import PlaitForCausalLM, PlaitForConditionalGeneration
from plait.configuration import PlaitVisionConfig

from ..generation.test_generate import GREEDY, prompt_of
from ..zoo import GENERATING, IMAGE, build, inputs_of

TEXTS = [(name, shape) for name, shapes in GENERATING.items() for shape in shapes]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("class_name", "shape"), TEXTS)
def test_labels_stand_one_for_each_token(class_name: str, shape: str, training: bool) -> None:
    model: Any = build(class_name, shape).train(training)
    inputs = inputs_of(shape)
    text = inputs["decoder_input_ids" if class_name == "PlaitForConditionalGeneration" else "input_ids"]
    for labels in (text[:, :-1], text[:, :0], text[:-1]):
        with pytest.raises(ValueError, match="labels are .* one label for each token"):
            model(**inputs, labels=labels)
    with pytest.raises(ValueError, match="label 99 is no token of a vocabulary of"):
        model(**inputs, labels=text.clone().fill_(99))


@pytest.mark.parametrize("shape", GENERATING["PlaitForConditionalGeneration"])
def test_texts_without_a_context_of_their_own(shape: str) -> None:
    model: Any = build("PlaitForConditionalGeneration", shape)
    inputs = inputs_of(shape)
    for rows in (1, 2):
        with pytest.raises(ValueError, match=f"text has {rows} rows, but its context has 3"):
            model(**{**inputs, "decoder_input_ids": inputs["decoder_input_ids"][:rows]})


def test_every_row_has_its_own_images() -> None:
    model: Any = build("PlaitForCausalLM", "inline")
    inputs = inputs_of("inline")
    inputs["pixel_values"] = inputs["pixel_values"][:1]
    with pytest.raises(ValueError, match="images of 1 rows, but texts of 3"):
        model(**inputs)


def test_an_image_behind_cached_tokens_is_refused() -> None:
    model: Any = build("PlaitForCausalLM", "inline")
    prompt = prompt_of("inline", batch=1)
    model.generation_config.eos_token_id = None
    first = model.generate(**prompt, **GREEDY, return_dict_in_generate=True)
    length, more = first.sequences.shape[1], prompt["input_ids"]
    ids = torch.cat((first.sequences, more), dim=1)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": first.past_key_values}
    for pictures in ({}, {"pixel_values": prompt["pixel_values"]}):
        with pytest.raises(ValueError, match="with all its images and without past_key_values"):
            model.generate(**given, **pictures, **GREEDY)
    written = torch.cat((first.sequences, torch.tensor([[5, 6]])), dim=1)  # a turn of words alone goes on
    first = model.generate(**prompt, **GREEDY, return_dict_in_generate=True)
    given = {"input_ids": written, "attention_mask": torch.ones_like(written)}
    whole = model.generate(**given, pixel_values=prompt["pixel_values"], **GREEDY)
    assert torch.equal(model.generate(**given, past_key_values=first.past_key_values, **GREEDY), whole)
    assert whole.shape[1] == length + 2 + GREEDY["max_new_tokens"]


def test_a_prompt_with_images_is_not_cut() -> None:
    model: Any = build("PlaitForCausalLM", "inline")
    prompt = prompt_of("inline")
    with pytest.raises(ValueError, match="prefill_chunk_size cuts"):
        model.generate(**prompt, **GREEDY, prefill_chunk_size=3)


@pytest.mark.parametrize("form", ["folder", "model"])
@pytest.mark.parametrize(("class_name", "shape"), TEXTS)
def test_a_plaits_decoder_comes_with_its_head_and_tokens(
    class_name: str, shape: str, form: str, tmp_path: Path
) -> None:
    """In another plait too: nothing that it learned to write with is fresh."""
    source: Any = build(class_name, shape, tie_word_embeddings=False)
    source.config.decoder_start_token_id = source.generation_config.decoder_start_token_id = 7
    source.generation_config.repetition_penalty = 1.5
    source.save_pretrained(tmp_path)
    decoder = tmp_path if form == "folder" else source
    kind = PlaitForCausalLM if class_name == "PlaitForCausalLM" else PlaitForConditionalGeneration
    image = PlaitVisionConfig.from_dict(dict(IMAGE))
    made: Any = kind.compose(image=image, decoder=decoder, verbose=False)
    assert not made.config.tie_word_embeddings
    assert torch.equal(made.lm_head.weight[:40], source.lm_head.weight)
    assert made.config.decoder_start_token_id == made.generation_config.decoder_start_token_id == 7
    assert made.generation_config.repetition_penalty == 1.5
    assert "head" in made.origins and not made.fresh_names & {"lm_head.weight"}
