"""What users of `generate` rely on, proved over all generating classes and shapes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer

from plait import PlaitForCausalLM, PlaitForConditionalGeneration
from plait.modeling.core.attention import PlaitCrossAttention
from plait.modeling.generation.cache import PreallocatedCacheLayer

from ..zoo import GENERATING, build, inputs_of

CASES = [(class_name, shape) for class_name, shapes in GENERATING.items() for shape in shapes]
GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def prompt(case: tuple[str, str]) -> dict[str, Tensor]:
    return prompt_of(case[1])


def prompt_of(shape: str, batch: int = 3) -> dict[str, Tensor]:
    """What `generate` gets: for a decoder-only model a left-padded prompt."""
    inputs = inputs_of(shape, batch)
    inputs.pop("decoder_input_ids", None)
    if shape in ("decoder", "inline"):
        order = inputs["attention_mask"].argsort(dim=1, stable=True)
        inputs = inputs | {name: inputs[name].gather(1, order) for name in ("input_ids", "attention_mask")}
    return inputs


def step_by_step(model: Any, prompt: dict[str, Tensor], tokens: int) -> Tensor:
    """Greedy decoding without `generate` and without a cache: the whole text through `forward` for every token."""
    encoder_decoder = model.config.is_encoder_decoder
    inputs, batch = dict(prompt), len(next(iter(prompt.values())))
    text = torch.full((batch, 1), model.config.decoder_start_token_id) if encoder_decoder else inputs.pop("input_ids")
    mask = None if encoder_decoder else inputs.pop("attention_mask")
    open_rows = torch.ones(batch, dtype=torch.bool)
    for _ in range(tokens):
        if encoder_decoder:
            logits = model(**inputs, decoder_input_ids=text).logits
        else:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model(**inputs, input_ids=text, attention_mask=mask, position_ids=positions).logits
            mask = torch.cat((mask, mask.new_ones(batch, 1)), dim=1)
        chosen = torch.where(open_rows, logits[:, -1].argmax(-1), model.config.pad_token_id)
        text = torch.cat((text, chosen[:, None]), dim=1)
        open_rows &= chosen != model.config.eos_token_id
        if not open_rows.any():
            break
    return text


@torch.no_grad()
def test_greedy_is_the_most_likely_token_each_time(model: Any, prompt: dict[str, Tensor]) -> None:
    assert torch.equal(model.generate(**prompt, **GREEDY), step_by_step(model, prompt, 8))


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static", "disable_compile": True},
        {"cache_implementation": "dynamic"},
    ],
    ids=["no cache", "static cache", "dynamic cache"],
)
def test_the_cache_changes_nothing(model: Any, prompt: dict[str, Tensor], options: dict[str, Any]) -> None:
    assert torch.equal(model.generate(**prompt, **GREEDY, **options), model.generate(**prompt, **GREEDY))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_rows_do_not_depend_on_their_neighbours(model: Any, prompt: dict[str, Tensor], implementation: str) -> None:
    model.set_attn_implementation(implementation)
    model.generation_config.eos_token_id = None
    together = model.generate(**prompt, **GREEDY)
    for row in range(3):
        alone = model.generate(**{name: value[row : row + 1] for name, value in prompt.items()}, **GREEDY)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 3}])
def test_beams_find_more_likely_texts(model: Any, prompt: dict[str, Tensor], options: dict[str, Any]) -> None:
    count = options.get("num_return_sequences", 1)
    scored = {**GREEDY, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    scored["length_penalty"] = 0.0
    model.generation_config.eos_token_id = None
    beams = model.generate(**prompt, **scored, **options)
    uncached = model.generate(**prompt, **scored, **options, use_cache=False)
    assert torch.equal(beams.sequences, uncached.sequences) and len(beams.sequences) == 3 * count
    greedy = model.generate(**prompt, **scored)
    written = greedy.sequences[:, -8:]
    chances = torch.stack(greedy.logits, dim=1).log_softmax(-1)
    likelihood = chances.gather(2, written[..., None]).sum((1, 2))
    assert (beams.sequences_scores.view(3, count)[:, 0] >= likelihood - 1e-3).all()


def test_sampling_follows_its_seed(model: Any, prompt: dict[str, Tensor]) -> None:
    def sampled(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.generate(**prompt, do_sample=True, max_new_tokens=8, num_return_sequences=2)

    assert torch.equal(sampled(0), sampled(0)) and len(sampled(0)) == 6
    assert any(not torch.equal(sampled(0), sampled(seed)) for seed in (1, 2, 3))


def test_constrained_decoding_keeps_to_what_is_allowed(model: Any, prompt: dict[str, Tensor]) -> None:
    start = 1 if model.config.is_encoder_decoder else prompt["input_ids"].shape[1]
    options = {**GREEDY, "prefix_allowed_tokens_fn": lambda row, text: [5, 6] if len(text) % 2 else [7]}
    assert set(model.generate(**prompt, **options)[:, start:].unique().tolist()) <= {5, 6, 7}


def test_towers_run_once_and_the_context_is_read_once(
    model: Any, prompt: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, projected = [], []
    for tower in model.model.towers.values():
        tower.register_forward_pre_hook(lambda *arguments: runs.append(1))
    crossing = [module for module in model.model.decoder.modules() if isinstance(module, PlaitCrossAttention)]
    for module in crossing:
        module.k_proj.register_forward_pre_hook(lambda *arguments: projected.append(1))
    model.generation_config.eos_token_id = None
    model.generate(**prompt, **GREEDY, num_beams=2)
    assert len(runs) == len(model.model.towers) and len(projected) == len(crossing)


def test_precomputed_towers_are_used(model: Any, prompt: dict[str, Tensor]) -> None:
    towers = model.model.towers
    if not towers:
        pytest.skip("a decoder alone")
    expected = model.generate(**prompt, **GREEDY)
    pictures = {name: prompt.pop(name) for name in ("pixel_values",) if name in prompt}
    if not pictures:
        pytest.skip("text needs no such thing")
    given = {"image": model.model.encode("image", **pictures)}
    assert torch.equal(model.generate(**prompt, encoder_outputs=given, **GREEDY), expected)


def test_recorded_attentions_and_states(model: Any, prompt: dict[str, Tensor]) -> None:
    asked = {"output_attentions": True, "output_hidden_states": True, "return_dict_in_generate": True}
    model.generation_config.eos_token_id = None
    outputs = model.generate(**prompt, **GREEDY, **asked)
    assert torch.equal(outputs.sequences, model.generate(**prompt, **GREEDY))
    own = "decoder_" if model.config.is_encoder_decoder else ""
    attentions, states = outputs[f"{own}attentions"], outputs[f"{own}hidden_states"]
    assert len(attentions) == len(states) == 8
    for step, (weights, layers) in enumerate(zip(attentions, states, strict=True)):
        assert len(weights) == 2 and len(layers) == 3
        first = 1 if own else prompt["input_ids"].shape[1]
        assert weights[0].shape[-1] == first + step
        torch.testing.assert_close(weights[0][-1, :, -1].sum(-1), torch.ones(4))
    if own:
        assert outputs.cross_attentions[0][-1].shape[1:3] == (4, 1)


def test_an_unknown_argument_is_an_error(model: Any, prompt: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="pixel_valuess"):
        model.generate(**prompt, pixel_valuess=torch.zeros(1), **GREEDY)


def test_generation_configs_are_saved(case: tuple[str, str], model: Any, tmp_path: Any) -> None:
    model.generation_config = GenerationConfig(max_new_tokens=3, num_beams=2, eos_token_id=None, pad_token_id=0)
    model.generation_config.decoder_start_token_id = 1
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    prompt = prompt_of(case[1])
    length = 1 if model.config.is_encoder_decoder else prompt["input_ids"].shape[1]
    assert again.generate(**prompt).shape == (3, length + 3)
    assert torch.equal(again.generate(**prompt), model.generate(**prompt))


def test_one_class_in_the_place_of_the_other_is_an_error(case: tuple[str, str], model: Any, tmp_path: Any) -> None:
    model.save_pretrained(tmp_path)
    other = PlaitForCausalLM if model.config.is_encoder_decoder else PlaitForConditionalGeneration
    with pytest.raises(ValueError, match=f"load it with {type(model).__name__}"):
        other.from_pretrained(tmp_path)


def test_a_prompt_for_the_decoder_is_continued() -> None:
    model, prompt = build("PlaitForConditionalGeneration", "captioner"), prompt_of("captioner")
    begun = torch.tensor([[1, 5, 9]] * 3)
    for name in ("decoder_input_ids", "input_ids"):
        text = model.generate(**prompt, **{name: begun}, **GREEDY)
        assert torch.equal(text[:, :3], begun)


def test_prompts_for_the_decoder_may_differ_in_length() -> None:
    model, prompt = build("PlaitForConditionalGeneration", "captioner"), prompt_of("captioner")
    model.generation_config.eos_token_id = None
    begun = torch.tensor([[0, 0, 5, 9], [7, 3, 5, 9], [0, 1, 6, 8]])  # padded left; the last has its start token
    mask = (begun != 0).long()
    for options in ({}, {"use_cache": False}, {"num_beams": 2}):
        together = model.generate(**prompt, input_ids=begun, attention_mask=mask, **GREEDY, **options)
        for row, text in enumerate(([1, 5, 9], [1, 7, 3, 5, 9], [1, 6, 8])):
            pixels = prompt["pixel_values"][row : row + 1]
            alone = model.generate(pixel_values=pixels, decoder_input_ids=torch.tensor([text]), **GREEDY, **options)
            assert torch.equal(together[row, -8:], alone[0, -8:])


def test_each_modality_may_be_missing() -> None:
    """A model of text and image gets exactly what was passed: no phantom sentence, no phantom picture."""
    model, prompt = build("PlaitForConditionalGeneration", "reader"), prompt_of("reader")
    image_only = {"pixel_values": prompt["pixel_values"]}
    absent = {"input_ids": prompt["input_ids"], "attention_mask": torch.zeros_like(prompt["attention_mask"])}
    assert torch.equal(model.generate(**image_only, **GREEDY), model.generate(**image_only, **absent, **GREEDY))
    text_only = {name: prompt[name] for name in ("input_ids", "attention_mask")}
    none = {**prompt, "pixel_values": prompt["pixel_values"][:, None], "image_present": torch.zeros(3, 1).bool()}
    assert torch.equal(model.generate(**text_only, **GREEDY), model.generate(**none, **GREEDY))
    with pytest.raises(ValueError, match="no inputs"):
        model.generate(**GREEDY)


def test_context_rows_need_not_be_equal() -> None:
    """Padding of the encoder's text is invisible to the decoder."""
    model, prompt = build("PlaitForConditionalGeneration", "translator"), prompt_of("translator")
    padded = {name: nn.functional.pad(value, (0, 4)) for name, value in prompt.items()}
    assert torch.equal(model.generate(**padded, **GREEDY), model.generate(**prompt, **GREEDY))


# a decoder alone, or with images


@pytest.mark.parametrize("shape", GENERATING["PlaitForCausalLM"])
def test_embeddings_may_stand_for_the_prompt(shape: str) -> None:
    model, prompt = build("PlaitForCausalLM", shape), prompt_of(shape)
    if shape == "inline":
        pytest.skip("image tokens tell where images stand")
    embedded = model.get_input_embeddings()(prompt["input_ids"])
    text = model.generate(inputs_embeds=embedded, attention_mask=prompt["attention_mask"], **GREEDY)
    assert torch.equal(text, model.generate(**prompt, **GREEDY)[:, prompt["input_ids"].shape[1] :])


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 2}, {"assistant": True}], ids=str)
def test_assisted_decoding_changes_nothing(options: dict[str, Any]) -> None:
    model, prompt = build("PlaitForCausalLM", "decoder"), prompt_of("decoder", batch=1)
    if options.pop("assistant", False):
        options["assistant_model"] = build("PlaitForCausalLM", "decoder")
    assert torch.equal(model.generate(**prompt, **GREEDY, **options), model.generate(**prompt, **GREEDY))


def test_generation_goes_on_from_a_cache() -> None:
    model, prompt = build("PlaitForCausalLM", "decoder"), prompt_of("decoder", batch=1)
    model.generation_config.eos_token_id = None
    cache = DynamicCache(config=model.config.get_text_config())
    first = model.generate(**prompt, **GREEDY, past_key_values=cache)
    assert cache.get_seq_length() == first.shape[1] - 1
    mask = torch.ones_like(first)
    on = model.generate(first, attention_mask=mask, past_key_values=cache, **GREEDY)
    assert torch.equal(on, model.generate(first, attention_mask=mask, **GREEDY))


def test_a_long_prompt_may_come_in_chunks() -> None:
    model, prompt = build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    chunked = model.generate(**prompt, **GREEDY, prefill_chunk_size=3)
    assert torch.equal(chunked, model.generate(**prompt, **GREEDY))


@torch.no_grad()
def test_a_4d_mask_is_taken_as_it_is() -> None:
    model, prompt = build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    ids, mask = prompt["input_ids"], prompt["attention_mask"].bool()
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    allowed = mask[:, None, None, :] & torch.ones(7, 7).tril().bool()
    allowed = allowed | torch.eye(7).bool()  # a padded position sees itself: no row of the softmax is empty
    ours = model(input_ids=ids, attention_mask=allowed, position_ids=positions).logits
    expected = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits
    torch.testing.assert_close(ours[mask], expected[mask], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, 2])], ids=str)
def test_only_the_logits_asked_for_are_computed(case: tuple[str, str], model: Any, kept: int | Tensor) -> None:
    inputs = inputs_of(case[1])
    whole = model(**inputs).logits
    some = model(**inputs, logits_to_keep=kept).logits
    torch.testing.assert_close(some, whole[:, kept] if isinstance(kept, Tensor) else whole[:, -kept:])


@torch.no_grad()
def test_packed_samples_do_not_see_each_other() -> None:
    """Positions that begin again at 0 mark a new sample in one row."""
    model = build("PlaitForCausalLM", "decoder")
    first, second = torch.tensor([[3, 7, 9]]), torch.tensor([[4, 8, 5, 6]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    packed = model(input_ids=torch.cat((first, second), dim=1), position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(packed[:, :3], model(input_ids=first).logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(packed[:, 3:], model(input_ids=second).logits, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_tokens_of_an_image_see_each_other_where_asked_for() -> None:
    model, inputs = build("PlaitForCausalLM", "inline"), inputs_of("inline")
    model.config.bidirectional_images = False
    changed = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
    changed["pixel_values"][..., -4:] += 1.0  # the last patches, and through attention all of the tower's tokens
    weights = [layer.detach() for layer in model(**inputs, output_attentions=True).attentions]
    assert all(layer[:, :, 0, 1:].abs().max() == 0 for layer in weights)
    model.config.bidirectional_images = True
    weights = [layer.detach() for layer in model(**inputs, output_attentions=True).attentions]
    assert all(layer[:, :, 0, 1:5].min() > 0 and layer[:, :, 0, 5:].abs().max() == 0 for layer in weights)
    assert all(layer[0, :, 5, 6:].abs().max() == 0 for layer in weights)  # the text stays causal


def test_images_and_their_tokens_must_agree() -> None:
    model, inputs = build("PlaitForCausalLM", "inline"), inputs_of("inline")
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="row 0 has image tokens in its text, but there are no images"):
        model(**text)
    with pytest.raises(ValueError, match=r"row 0 has 4 image tokens .* 5"):
        model(**{name: value[:, 1:] for name, value in text.items()}, pixel_values=inputs["pixel_values"])
    none = {name: value[:, 5:] for name, value in text.items()}
    with pytest.raises(ValueError, match=r"row 0 has 0 image tokens .* 5"):
        model(**none, pixel_values=inputs["pixel_values"])
    assert torch.isfinite(model(**none).logits).all()


@torch.no_grad()
def test_several_images_in_one_prompt() -> None:
    model = build("PlaitForCausalLM", "inline")
    pictures = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[4] + [39] * 5 + [6, 7] + [39] * 5 + [8]])
    both = model(input_ids=ids, pixel_values=pictures).logits
    swapped = model(input_ids=ids, pixel_values=pictures.flip(1)).logits
    assert (both - swapped).abs().max() > 1e-3
    torch.testing.assert_close(both[:, :8], model(input_ids=ids[:, :8], pixel_values=pictures[:, :1]).logits)
    mixed = torch.tensor([[4] + [39] * 5 + [6, 7, 9, 9, 9, 9, 9, 8], ids[0].tolist()])
    present = torch.tensor([[True, False], [True, True]])
    rows = model(input_ids=mixed, pixel_values=pictures.expand(2, -1, -1, -1, -1), image_present=present).logits
    torch.testing.assert_close(rows[1:], both, atol=1e-5, rtol=1e-4)


# the cache


@pytest.mark.parametrize("change", ["none", "crop", "reorder", "repeat"])
def test_a_growing_layer_holds_what_a_dynamic_one_holds(change: str) -> None:
    growing, dynamic = PreallocatedCacheLayer(), DynamicLayer()
    changes: dict[str, Callable[[DynamicLayer], None]] = {
        "none": lambda layer: None,
        "crop": lambda layer: layer.crop(-2),
        "reorder": lambda layer: layer.reorder_cache(torch.tensor([1, 0])),
        "repeat": lambda layer: layer.batch_select_indices(torch.tensor([1, 1])),
    }
    generator = torch.Generator().manual_seed(0)
    for step, length in enumerate((5, 1, 1, 70, 1, 1, 1)):
        key, value = torch.randn(2, 2, 3, length, 4, generator=generator).unbind(0)
        kept = growing.update(key, value), dynamic.update(key, value)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*kept, strict=True)), step
        for layer in (growing, dynamic):
            changes[change](layer)
    assert growing.get_seq_length() == dynamic.get_seq_length()


def test_gradients_pass_through_a_cache() -> None:
    model = build("PlaitForCausalLM", "decoder")
    ids = torch.tensor([[3, 7, 9, 4, 8]])
    start = model(input_ids=ids[:, :3], use_cache=True)
    model(input_ids=ids[:, 3:], past_key_values=start.past_key_values).logits.square().sum().backward()
    through_cache = model.get_input_embeddings().weight.grad[[3, 7, 9]].clone()
    model.zero_grad()
    model(input_ids=ids).logits[:, 3:].square().sum().backward()
    torch.testing.assert_close(through_cache, model.get_input_embeddings().weight.grad[[3, 7, 9]])
