"""A text that continues a KV cache is the text computed whole, in every class that generates."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

from plait import PlaitForConditionalGeneration

from ..zoo import CONFIGS, GENERATING, build, inputs_of

CASES = [(class_name, shape) for class_name, shapes in GENERATING.items() for shape in shapes]
OPTIONS = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
LEARNED = {"position_type": "learned", "rope_parameters": None}


@pytest.fixture(params=[{}, LEARNED], ids=["rotary", "learned"])
def model(case: tuple[str, str], request: pytest.FixtureRequest) -> Any:
    built = build(*case, decoder_config={**CONFIGS[case[1]]["decoder_config"], **request.param})
    built.generation_config.eos_token_id = None
    return built


class Turns:
    """The arguments of two turns: a left-padded prompt, and the text after it with three tokens of a user."""

    def __init__(self, model: Any, shape: str) -> None:
        context, own = inputs_of(shape), model.config.is_encoder_decoder
        self.names = ("decoder_input_ids", "decoder_attention_mask") if own else ("input_ids", "attention_mask")
        context.pop("decoder_input_ids", None)
        if own:
            prompt = torch.tensor([[0, 0, 1, 9], [1, 3, 5, 9], [0, 1, 6, 8]])
            mask = (prompt != 0).long()
        else:
            prompt, mask = (context.pop(name) for name in self.names)
            order = mask.argsort(dim=1, stable=True)
            prompt, mask = prompt.gather(1, order), mask.gather(1, order)
        self.model, self.context, self.prompt, self.mask = model, context, prompt, mask

    def begin(self, cache: Any = None) -> Any:
        first = self.generate(self.prompt, self.mask, past_key_values=cache)
        self.text = torch.cat((first.sequences, torch.tensor([[7, 8, 9]] * 3)), dim=1)
        self.text_mask = torch.cat((self.mask, self.mask.new_ones(3, 6)), dim=1)
        return first.past_key_values

    def generate(self, text: Tensor, mask: Tensor | None, context: bool = True, **options: Any) -> Any:
        given = dict(zip(self.names, (text, mask), strict=True)) | (self.context if context else {})
        return self.model.generate(**given, **OPTIONS, **options)


def assert_same(ours: Any, expected: Any) -> None:
    assert torch.equal(ours.sequences[:, -3:], expected.sequences[:, -3:])
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(expected.logits), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_continuing_equals_the_whole(case: tuple[str, str], model: Any, static: bool) -> None:
    turns, cache = Turns(model, case[1]), None
    if static:
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=24)
        cache = EncoderDecoderCache(cache, DynamicCache()) if model.config.is_encoder_decoder else cache
    held = turns.begin(cache)
    cached, text, mask = int(held.get_seq_length()), turns.text, turns.text_mask
    expected = turns.generate(text, mask)
    for given in (text, text[:, cached:]):
        assert_same(turns.generate(given, mask, past_key_values=copy.deepcopy(held), disable_compile=True), expected)
    if case[1] == "inline":  # the images are in the cache
        again = turns.generate(text, mask, context=False, past_key_values=held, disable_compile=True)
        assert_same(again, expected)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_beams_continue_a_cache(case: tuple[str, str], options: dict[str, int]) -> None:
    model: Any = build(*case)
    model.generation_config.eos_token_id = None
    turns = Turns(model, case[1])
    cache = turns.begin()
    expected = turns.generate(turns.text, turns.text_mask, **options)
    assert_same(turns.generate(turns.text, turns.text_mask, past_key_values=cache, **options), expected)
    assert len(expected.sequences) == 3 * options.get("num_return_sequences", 1)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_text_without_a_mask_is_the_whole_one(case: tuple[str, str]) -> None:
    model: Any = build(*case)
    model.generation_config.eos_token_id = None
    turns = Turns(model, case[1])
    turns.prompt, turns.mask = turns.prompt.clamp(min=1), torch.ones_like(turns.mask)
    cache = turns.begin()
    expected = turns.generate(turns.text, None)
    assert_same(turns.generate(turns.text, None, past_key_values=cache), expected)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_cache_that_does_not_fit_its_text_is_an_error(case: tuple[str, str]) -> None:
    model: Any = build(*case)
    turns = Turns(model, case[1])
    cache = turns.begin()
    with pytest.raises(ValueError, match=r"past_key_values hold \d+ tokens, the text has 2 and its mask 2"):
        turns.generate(turns.text[:, -2:], None, past_key_values=cache)
    with pytest.raises(ValueError, match=r"past_key_values hold \d+ tokens, the text has 3 and its mask 4"):
        turns.generate(turns.text[:, -3:], turns.text_mask[:, -4:], past_key_values=cache)
    cache.batch_repeat_interleave(2)
    with pytest.raises(ValueError, match="past_key_values hold 6 rows, but the text has 3"):
        turns.generate(turns.text, turns.text_mask, past_key_values=cache)
    if model.config.is_encoder_decoder:
        with pytest.raises(ValueError, match="pass it as decoder_input_ids"):
            model.generate(**turns.context, past_key_values=cache)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_left_padding_is_invisible_with_a_static_cache(case: tuple[str, str], model: Any) -> None:
    turns = Turns(model, case[1])
    static = turns.generate(turns.prompt, turns.mask, cache_implementation="static", disable_compile=True)
    assert_same(static, turns.generate(turns.prompt, turns.mask))


def test_rows_that_all_begin_with_padding_have_one_start_token() -> None:
    model: Any = build("PlaitForConditionalGeneration", "captioner")
    model.generation_config.eos_token_id = None
    pixels = inputs_of("captioner")["pixel_values"]
    padded, mask = torch.tensor([[0, 1, 5, 9]] * 3), torch.tensor([[0, 1, 1, 1]] * 3)
    together = model.generate(pixel_values=pixels, decoder_input_ids=padded, decoder_attention_mask=mask, **OPTIONS)
    assert_same(together, model.generate(pixel_values=pixels, decoder_input_ids=padded[:, 1:], **OPTIONS))
    assert together.sequences.shape[1] == 7


def test_bart_continues_as_in_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sides = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in SIZES.items()}
    config = BartConfig(vocab_size=60, d_model=32, max_position_embeddings=40, init_std=0.2, **sides)
    theirs: Any = BartForConditionalGeneration(config).eval()
    theirs.generation_config.forced_eos_token_id = theirs.generation_config.eos_token_id = None
    theirs.save_pretrained(tmp_path)
    ours = PlaitForConditionalGeneration.from_pretrained(tmp_path)
    ids, text = torch.randint(4, 60, (2, 6)), torch.randint(4, 60, (2, 5))
    text[:, 0] = config.decoder_start_token_id
    turns = []
    for model in (ours, theirs):
        first = model.generate(ids, decoder_input_ids=text, **OPTIONS)
        longer = torch.cat((first.sequences, text[:, 1:3]), dim=1)
        given = {"decoder_input_ids": longer, "decoder_attention_mask": torch.ones_like(longer)}
        turns.append(model.generate(ids, **given, past_key_values=first.past_key_values, **OPTIONS))
    assert_same(*turns)
