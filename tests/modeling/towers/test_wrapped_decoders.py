"""Causal families that the core does not know, as decoders: the text that transformers writes, with images among it,
and with a context."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from plait import PlaitForCausalLM, PlaitForConditionalGeneration
from plait.modeling.towers.wrapped_decoder import WrappedDecoder, check_cross_attention

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64}
SIZES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WINDOWED = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4}

MODELS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)),
    "gptj": lambda: hf.GPTJForCausalLM(
        hf.GPTJConfig(vocab_size=60, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64, pad_token_id=0)
    ),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**SIZES)),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**SIZES, num_key_value_heads=2, head_dim=8)),
    "bloom": lambda: hf.BloomForCausalLM(
        hf.BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0, bos_token_id=1)
    ),
    "biogpt": lambda: hf.BioGptForCausalLM(hf.BioGptConfig(**SIZES)),
}
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


def saved(name: str, folder: Path) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(folder)
    return model


@pytest.fixture
def image(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    torch.manual_seed(0)
    hf.ViTModel(hf.ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def without_gradient(model: nn.Module) -> list[str]:
    return [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


def prompt() -> dict[str, Tensor]:
    ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", MODELS)
def test_a_wrapped_decoder_writes_what_transformers_writes(name: str, tmp_path: Path) -> None:
    peer = saved(name, tmp_path / "theirs")
    model, info = PlaitForCausalLM.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert isinstance(model.model.decoder, WrappedDecoder) and not info["missing_keys"]
    with torch.no_grad():
        ours, theirs = model(**prompt()).logits, peer(**prompt()).logits
    real = prompt()["attention_mask"].bool()
    assert (ours[real] - theirs[real]).abs().max() / theirs.abs().max().clamp(min=1) <= 1e-5
    for options in ({}, {"num_beams": 3}, {"use_cache": False}):
        expected = peer.generate(**prompt(), **GREEDY, **options)
        assert torch.equal(model.generate(**prompt(), **GREEDY, **options), expected)
    model.save_pretrained(tmp_path / "ours")
    again = PlaitForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(**prompt()).logits, model(**prompt()).logits)
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied == (again.lm_head.weight is again.get_input_embeddings().weight)
    assert tied == bool(peer.config.tie_word_embeddings)


@pytest.mark.parametrize("name", MODELS)
def test_images_among_its_text(name: str, tmp_path: Path, image: Path) -> None:
    saved(name, tmp_path / "theirs")
    model: Any = PlaitForCausalLM.compose(image=image, decoder=tmp_path / "theirs", verbose=False)
    token = model.config.image_token_id
    inputs = {"input_ids": torch.tensor([[3, *[token] * 5, 7, 8], [4, *[token] * 5, 9, 5]])}
    inputs["pixel_values"] = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == token, -100)
    model.train()(**inputs, labels=labels).loss.backward()
    assert not without_gradient(model)
    text = model.eval().generate(**inputs, **GREEDY)
    assert torch.equal(text, model.generate(**inputs, **GREEDY, use_cache=False))
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    assert (model(**other).logits[:, -1] - model(**inputs).logits[:, -1]).abs().max() > 1e-6
    model.save_pretrained(tmp_path / "ours")
    again = PlaitForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_layers_of_two_kinds_and_a_static_cache(tmp_path: Path, image: Path) -> None:
    """transformers then gives each kind of layer its own mask."""
    config = hf.Gemma3TextConfig(**SIZES, **WINDOWED, layer_types=["sliding_attention", "full_attention"])
    torch.manual_seed(0)
    peer = hf.Gemma3ForCausalLM(config).eval()
    peer.save_pretrained(tmp_path / "theirs")
    static = {"cache_implementation": "static", "disable_compile": True}
    model: Any = PlaitForCausalLM.from_pretrained(tmp_path / "theirs")
    expected = peer.generate(**prompt(), **GREEDY)
    assert torch.equal(model.generate(**prompt(), **GREEDY, **static), expected)
    composed: Any = PlaitForCausalLM.compose(image=image, decoder=tmp_path / "theirs", verbose=False)
    token = composed.config.image_token_id
    inputs = {"input_ids": torch.tensor([[3, *[token] * 5, 7, 8], [4, *[token] * 5, 9, 5]])}
    inputs["pixel_values"] = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    text = composed.generate(**inputs, **GREEDY)
    assert torch.equal(composed.generate(**inputs, **GREEDY, **static), text)


@torch.no_grad()
def test_a_family_without_a_cache_writes_too(tmp_path: Path, image: Path) -> None:
    torch.manual_seed(0)
    peer = hf.MambaForCausalLM(hf.MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, pad_token_id=0))
    peer.eval().save_pretrained(tmp_path / "theirs")
    model: Any = PlaitForCausalLM.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(model(**prompt()).logits, peer(**prompt()).logits)
    for options in ({}, {"num_beams": 2}):
        expected = peer.generate(**prompt(), **GREEDY, **options)
        assert torch.equal(model.generate(**prompt(), **GREEDY, **options), expected)
    composed: Any = PlaitForCausalLM.compose(image=image, decoder=tmp_path / "theirs", verbose=False)
    ids = torch.tensor([[3, *[composed.config.image_token_id] * 5, 7, 8]])
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    text = composed.generate(input_ids=ids, pixel_values=pixels, **GREEDY)
    again = composed(input_ids=text[:, :-1], pixel_values=pixels).logits[:, ids.shape[1] - 1 :]
    assert torch.equal(again[..., :60].argmax(-1), text[:, ids.shape[1] :])


def test_its_own_cross_attention_reads_a_context(tmp_path: Path, image: Path) -> None:
    config = hf.BertGenerationConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    torch.manual_seed(0)
    hf.BertGenerationDecoder(config).save_pretrained(tmp_path / "theirs")
    options = {"image": image, "decoder": tmp_path / "theirs", "verbose": False}
    model: Any = PlaitForConditionalGeneration.compose(**options)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[3, 7, 9, 2], [5, 8, 2, -100]])
    model.train()(pixel_values=pixels, labels=labels).loss.backward()
    assert not without_gradient(model)
    text = model.eval().generate(pixel_values=pixels, **GREEDY)
    assert torch.equal(text, model.generate(pixel_values=pixels, **GREEDY, use_cache=False))
    model.save_pretrained(tmp_path / "ours")
    again = PlaitForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.generate(pixel_values=pixels, **GREEDY), text)


def test_what_cannot_be_a_decoder(tmp_path: Path, image: Path) -> None:
    saved("opt", tmp_path / "opt")
    with pytest.raises(ValueError, match="opt decoder has no cross-attention .* PlaitForCausalLM"):
        PlaitForConditionalGeneration.compose(image=image, decoder=tmp_path / "opt", verbose=False)
    with pytest.raises(ValueError, match="keeps its own config"):
        PlaitForCausalLM.compose(decoder=tmp_path / "opt", decoder_config={"hidden_act": "relu"}, verbose=False)
    capped = hf.Gemma2Config(**SIZES, **WINDOWED, query_pre_attn_scalar=8, final_logit_softcapping=1.0)
    torch.manual_seed(0)
    model = hf.Gemma2ForCausalLM(capped)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "gemma2")
    with pytest.raises(ValueError, match="head of a gemma2 model does more than project"):
        PlaitForCausalLM.from_pretrained(tmp_path / "gemma2")


LIMITED = ("opt", "gptj", "biogpt")  # a learned table, a computed one of fixed length, a learned one behind two more


@pytest.mark.parametrize("name", MODELS)
def test_beyond_the_positions_is_an_error_that_says_so(name: str, tmp_path: Path) -> None:
    """Families whose positions are computed go on."""
    saved(name, tmp_path)
    model = PlaitForCausalLM.from_pretrained(tmp_path)
    long = torch.full((2, 65), 5)
    padded = {"input_ids": long, "attention_mask": torch.ones_like(long).tril(64 - 10)}
    if name not in LIMITED:
        assert model(input_ids=long).logits.isfinite().all()
        assert model.generate(input_ids=long[:, :60], **GREEDY).shape[1] == 66
        return
    message = f"65 tokens, but the wrapped {name} has 64 positions: truncate the text, or generate fewer tokens"
    with pytest.raises(ValueError, match=message):
        model(input_ids=long)
    assert model.generate(input_ids=long[:, :60], **{**GREEDY, "max_new_tokens": 4}).shape[1] == 64
    with pytest.raises(ValueError, match=message):
        model.generate(input_ids=long[:, :60], **GREEDY)
    if name == "opt":  # counts real tokens
        assert model(**padded).logits.isfinite().all()


def test_beyond_the_native_positions_is_an_error_that_says_so() -> None:
    sizes = {"vocab_size": 60, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 16}
    model: Any = PlaitForCausalLM.compose(decoder=hf.GPT2Config(**sizes), verbose=False)
    long = torch.full((2, 17), 5)
    message = "17 tokens, but the text tower has 16 positions"
    for places in ({}, {"position_ids": torch.arange(17)[None]}):
        with pytest.raises(ValueError, match=message):
            model(input_ids=long, **places)
    left = torch.ones_like(long)
    left[:, :4] = 0  # padding takes no position
    assert model.generate(input_ids=long, attention_mask=left, max_new_tokens=3, eos_token_id=None).shape[1] == 20
    for implementation in ("sdpa", "eager"):  # by plain functions, and by modules
        model.set_attn_implementation(implementation)
        with pytest.raises(ValueError, match=message):
            model.generate(input_ids=long, attention_mask=left, max_new_tokens=5, eos_token_id=None)


@pytest.mark.parametrize(
    ("config", "crosses"),
    [
        (hf.BertConfig(is_decoder=True, add_cross_attention=True), True),
        (hf.BertConfig(is_decoder=True), False),
        (hf.BloomConfig(), False),
        (hf.MBartConfig(is_decoder=True), True),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_a_decoder_for_a_context_needs_cross_attention(config: Any, crosses: bool) -> None:
    if crosses:
        check_cross_attention(config)
        return
    with pytest.raises(ValueError, match=f"a {config.model_type} decoder has no cross-attention"):
        check_cross_attention(config)
