"""Rows flattened into one, as collators without padding make them: no decoder mixes them, whatever says where they
begin, with a KV cache or without."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from plait import PlaitConfig, PlaitForCausalLM, PlaitForConditionalGeneration, PlaitModel

from ..towers.test_wrapped_decoders import MODELS as WRAPPED
from ..towers.test_wrapped_decoders import saved as save_wrapped
from ..zoo import DECODER, IMAGE
from .text_models import GENERATORS, difference, save

LENGTHS = (5, 3, 7)
NAMES = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PlaitForCausalLM]:
    """Reads each checkpoint once."""

    def read(name: str, attention: str = "sdpa") -> PlaitForCausalLM:
        folder = tmp_path_factory.mktemp(name)
        (save_wrapped if name in WRAPPED else save)(name, folder)
        model = PlaitForCausalLM.from_pretrained(folder, attn_implementation=attention)
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        model.config.get_text_config().attention_dropout = 0.0
        return model.eval()

    return cache(read)


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, 60, (1, length), generator=generator) for length in LENGTHS]


def flattened(*left_out: str) -> dict[str, Any]:
    collator = hf.DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    batch = collator([{"input_ids": row[0].tolist()} for row in rows()])
    assert {*NAMES, "seq_idx", "position_ids"} <= batch.keys()
    return {name: value for name, value in batch.items() if name not in left_out}


def every_form() -> dict[str, dict[str, Any]]:
    """What says where the rows begin, in each of the ways."""
    ones = {"attention_mask": torch.ones(1, sum(LENGTHS), dtype=torch.long)}
    plain = flattened(*NAMES, "seq_idx", "labels")
    behind = {name: torch.cat((value, value.new_zeros(1, 2)), dim=1) for name, value in plain.items()}
    behind["attention_mask"] = torch.cat((ones["attention_mask"], torch.zeros(1, 2, dtype=torch.long)), dim=1)
    return {
        "all": flattened("labels"),
        "positions": plain,
        "offsets": flattened("labels", "position_ids", "seq_idx"),
        "numbers": flattened("labels", "position_ids", *NAMES),
        "mask": plain | ones,
        "padding": behind,
        "cached": plain | {"use_cache": True},
        "cache": plain | {"past_key_values": hf.DynamicCache()},
    }


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", GENERATORS)
def test_flattened_rows_are_the_rows_alone(load: Callable[..., PlaitForCausalLM], name: str, attention: str) -> None:
    model = load(name, attention)
    alone = torch.cat([model(row, use_cache=False).logits for row in rows()], dim=1)
    for form, inputs in every_form().items():
        found = model(**inputs).logits[:, : sum(LENGTHS)]
        assert difference(found, alone) <= 1e-5, form
        tokens = model.model(**inputs).last_hidden_state[:, : sum(LENGTHS)]
        assert difference(model.lm_head(tokens), alone) <= 1e-5, form


@torch.no_grad()
@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_decoder_mixes_no_flattened_rows(load: Callable[..., PlaitForCausalLM], name: str) -> None:
    model = load(name)
    alone = torch.cat([model(row, use_cache=False).logits for row in rows()], dim=1)
    for form, inputs in every_form().items():
        if form.startswith("cache"):
            with pytest.raises(ValueError, match="flattened"):
                model(**inputs)
        else:
            assert difference(model(**inputs).logits[:, : sum(LENGTHS)], alone) <= 1e-5, form


@pytest.mark.parametrize("name", GENERATORS)
def test_their_loss_is_that_of_the_rows(load: Callable[..., PlaitForCausalLM], name: str) -> None:
    """Also where the labels are the input ids: no row predicts the next one's first token."""
    model, padded = load(name), torch.full((3, max(LENGTHS)), -100)
    for number, row in enumerate(rows()):
        padded[number, : row.shape[1]] = row
    batch = {"input_ids": padded.clamp(min=0), "attention_mask": (padded >= 0).long(), "labels": padded}
    expected = model(**batch).loss
    for training in (False, True):
        model.train(training)
        for inputs in (flattened(), flattened("labels") | {"labels": torch.cat(rows(), dim=1)}):
            torch.testing.assert_close(model(**inputs).loss, expected, atol=1e-5, rtol=1e-5)
    model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", GENERATORS)
def test_a_cache_continues_the_last_row(load: Callable[..., PlaitForCausalLM], name: str) -> None:
    model, more = load(name), torch.tensor([[7, 8, 9]])
    alone = model(torch.cat((rows()[-1], more), dim=1), use_cache=False).logits[:, -3:]
    for parts in ((3,), (1, 2), (2, 1)):
        cached = model(**every_form()["cached"]).past_key_values
        begin, found = LENGTHS[-1], []
        for part in more.split(parts, dim=1):
            positions = torch.arange(begin, begin + part.shape[1])[None]
            found.append(model(part, position_ids=positions, past_key_values=cached).logits)
            begin += part.shape[1]
        assert difference(torch.cat(found, dim=1), alone) <= 1e-5, parts


@torch.no_grad()
def test_images_inside_flattened_rows() -> None:
    torch.manual_seed(0)
    fields = {"image_token_id": 39, "fusion_config": {"strategy": "inline", "hidden_size": 32}}
    config = PlaitConfig(vision_config=dict(IMAGE), decoder_config=dict(DECODER), **fields)
    for bidirectional in (False, True):
        config.bidirectional_images = bidirectional
        model = PlaitForCausalLM(config).eval()
        count, pixels = model.num_image_tokens, torch.randn(1, 2, 3, 16, 16)
        texts = [torch.tensor([[5, *[39] * count, 6]]), torch.tensor([[7, 8, *[39] * count]])]
        alone = [model(text, pixel_values=pixels[:, [number]]).logits for number, text in enumerate(texts)]
        positions = torch.cat([torch.arange(text.shape[1])[None] for text in texts], dim=1)
        found = model(torch.cat(texts, dim=1), position_ids=positions, pixel_values=pixels).logits
        assert difference(found, torch.cat(alone, dim=1)) <= 1e-5


def test_what_cannot_be_flattened_is_an_error(load: Callable[..., PlaitForCausalLM]) -> None:
    model = load("llama-lm")
    with pytest.raises(ValueError, match="offsets"):
        model(**flattened("labels") | {"cu_seq_lens_q": torch.tensor([0, 5, 8])})
    with pytest.raises(ValueError, match="leave position_ids out"):
        model(**flattened("labels") | {"cu_seq_lens_q": torch.tensor([0, 6, 15])})
    for inputs in every_form().values():
        if "past_key_values" not in inputs:
            with pytest.raises(ValueError, match="flattened rows"):
                model.generate(**inputs, max_new_tokens=2)
    encoder = PlaitModel(PlaitConfig(vision_config=dict(IMAGE)))
    with pytest.raises(ValueError, match="seq_idx: this model has no decoder"):
        encoder(pixel_values=torch.randn(1, 3, 16, 16), seq_idx=torch.zeros(1, 4))
    config = PlaitConfig(vision_config=dict(IMAGE), decoder_config={**DECODER, "cross_attention": True})
    captioner = PlaitForConditionalGeneration(config)
    with pytest.raises(ValueError, match="only a decoder alone takes flattened rows"):
        captioner(
            pixel_values=torch.randn(1, 3, 16, 16), decoder_input_ids=torch.ones(1, 4).long(), seq_idx=torch.zeros(1, 4)
        )
