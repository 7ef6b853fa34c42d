"""BART and Whisper read from transformers' files, whole or a component alone, against transformers."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from plait import PlaitForCausalLM, PlaitForClassification, PlaitForConditionalGeneration, PlaitModel
from plait.configuration import PlaitAudioConfig, PlaitDecoderConfig, PlaitTextConfig
from plait.modeling.checkpoints import build_component_config, export, read_component, read_components, write_component
from plait.modeling.checkpoints.source import open_checkpoint

from .encoder_decoders import MODELS, UNUSED, bart, outputs_of, save, sources_of, texts_of, whisper
from .text_models import Saved, difference


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Each model once."""
    return cache(lambda name: save(MODELS[name](), tmp_path_factory.mktemp(name)))


def loaded(saved: Saved, **options: Any) -> Any:
    return PlaitForConditionalGeneration.from_pretrained(saved.folder, **options).eval()


def in_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_both_components_match_transformers(
    saved: Callable[[str], Saved], name: str, attention: str, side: str
) -> None:
    theirs = saved(name).model
    theirs.set_attn_implementation(attention)
    inputs = sources_of(name) | texts_of(name, side)
    # transformers gives a token its index as position, also behind padding
    places = {"decoder_position_ids": torch.arange(inputs["decoder_input_ids"].shape[1])[None]}
    ours = outputs_of(loaded(saved(name), attn_implementation=attention), inputs | (places if side == "left" else {}))
    expected = outputs_of(theirs, inputs)
    exact = outputs_of(theirs.double(), in_double(inputs))
    theirs.float()
    assert ours.keys() == expected.keys()
    for key, tensor in expected.items():
        assert difference(ours[key], tensor) <= 1e-5, key
        assert difference(ours[key], exact[key]) <= max(2 * difference(tensor, exact[key]), 1e-6), key


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_token_by_token_with_a_cache_gives_the_same(saved: Callable[[str], Saved], name: str) -> None:
    model, sources, texts = loaded(saved(name)), sources_of(name), texts_of(name)
    ids, mask = texts.values()
    context, past, steps = model.model.encode_context(**sources), None, []
    for number in range(ids.shape[1]):
        outputs = model(
            encoder_outputs=context,
            decoder_input_ids=ids[:, number : number + 1],
            decoder_attention_mask=mask[:, : number + 1],
            past_key_values=past,
            use_cache=True,
        )
        past = outputs.past_key_values
        steps.append(outputs.logits)
    expected = model(**sources, **texts).logits
    assert difference(torch.cat(steps, dim=1) * mask[..., None], expected * mask[..., None]) <= 1e-5


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}], ids=["greedy", "beams", "uncached"])
@pytest.mark.parametrize("name", MODELS)
def test_generated_tokens_are_those_of_transformers(
    saved: Callable[[str], Saved], name: str, options: dict[str, Any]
) -> None:
    theirs, sources = saved(name).model, sources_of(name)
    # not Whisper's own, which cuts the result
    expected = hf.GenerationMixin.generate(theirs, **sources, max_new_tokens=8, **options)
    assert torch.equal(loaded(saved(name)).generate(**sources, max_new_tokens=8, **options), expected)


@pytest.mark.parametrize("name", MODELS)
def test_it_comes_back_bit_equal(saved: Callable[[str], Saved], name: str, tmp_path: Path) -> None:
    export(loaded(saved(name)), tmp_path)
    ours, theirs = load_file(tmp_path / "model.safetensors"), saved(name).file()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) or (name, key) == UNUSED for key in theirs)
    again, report = type(saved(name).model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    ours, theirs = (each.generation_config.to_diff_dict() for each in (again, saved(name).model))
    assert ours == {key: value for key, value in theirs.items() if not key.startswith("_")}
    inputs = sources_of(name) | texts_of(name)
    expected, found = (outputs_of(each.eval(), inputs) for each in (saved(name).model, again))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded_it_is_the_same(saved: Callable[[str], Saved], name: str, tmp_path: Path) -> None:
    model, inputs = loaded(saved(name)), sources_of(name) | texts_of(name)
    model.save_pretrained(tmp_path)
    again = hf.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert type(again) is PlaitForConditionalGeneration
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    grads = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    assert grads == {key: parameter.requires_grad for key, parameter in again.named_parameters()}
    expected, found = outputs_of(model, inputs), outputs_of(again, inputs)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    base = PlaitModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bart", "bart-untied", "whisper"])
def test_without_a_head_it_matches_too(name: str, tmp_path: Path) -> None:
    options = {"tie_word_embeddings": False} if name == "bart-untied" else {}
    theirs, folder = save((whisper if name == "whisper" else bart)("Model", **options), tmp_path / "theirs")
    model = PlaitModel.from_pretrained(folder).eval()
    inputs = sources_of(name) | texts_of(name)
    ours, expected = (each(**inputs).last_hidden_state for each in (model, theirs))
    mask = inputs["decoder_attention_mask"][..., None]
    assert difference(ours * mask, expected * mask) <= 1e-5
    export(model, tmp_path / "out")
    file, out = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert out.keys() == file.keys()
    assert all(torch.equal(out[key], file[key]) for key in file if key != "shared.weight" or not options)


def test_what_is_tied_is_one_tensor(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    model = loaded(saved("bart"))
    tables = [model.model.towers["text"].get_input_embeddings(), model.get_input_embeddings(), model.lm_head]
    assert len({table.weight.data_ptr() for table in tables}) == 1
    model.resize_token_embeddings(70)
    assert model.config.text_config.vocab_size == model.config.decoder_config.vocab_size == 70
    assert len({id(parameter) for parameter in model.parameters() if parameter.shape == (70, 32)}) == 1
    model.save_pretrained(tmp_path / "ours")
    again = PlaitForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)
    export(model, tmp_path / "theirs")
    assert hf.BartForConditionalGeneration.from_pretrained(tmp_path / "theirs").config.vocab_size == 70
    assert not loaded(saved("bart-untied")).config.tie_encoder_embeddings


def test_old_names_of_shared_embeddings_are_known(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    """Files before safetensors spell out every tied table."""
    file = saved("bart").file()
    names = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    file |= {name: file["model.shared.weight"].clone() for name in names} | {"model.encoder.version": torch.ones(1)}
    save_file(file, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((saved("bart").folder / "config.json").read_text())
    ours, theirs = read_components(open_checkpoint(tmp_path)), read_components(open_checkpoint(saved("bart").folder))
    for name in theirs:
        assert all(torch.equal(ours[name].weights[key], theirs[name].weights[key]) for key in theirs[name].weights)
    assert PlaitForConditionalGeneration.from_pretrained(tmp_path).config.tie_encoder_embeddings


def test_generation_settings_of_old_configs_are_read(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    save_file(saved("bart").file(), tmp_path / "model.safetensors")
    config = json.loads((saved("bart").folder / "config.json").read_text()) | {"num_beams": 4, "min_length": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours, theirs = (
        kind.from_pretrained(tmp_path).generation_config
        for kind in (PlaitForConditionalGeneration, hf.BartForConditionalGeneration)
    )
    names = ("num_beams", "min_length", "forced_eos_token_id", "decoder_start_token_id", "pad_token_id")
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    assert ours.num_beams == 4


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bart", "whisper"])
def test_labels_are_read_behind_the_checkpoints_own_start_token(kind: str, tmp_path: Path) -> None:
    """Not behind its first token: BART begins with its end, Whisper of many languages with a token of its own."""
    tokens = {"bos_token_id": 3, "eos_token_id": 2, "decoder_start_token_id": 4}
    theirs, folder = save((bart if kind == "bart" else whisper)(**tokens), tmp_path / "theirs")
    labels = torch.tensor([[5, 6, 2, -100], [7, 2, -100, -100], [8, 9, 5, 2]])
    ours = PlaitForConditionalGeneration.from_pretrained(folder).eval()
    expected = theirs(**sources_of(kind), labels=labels).loss
    torch.testing.assert_close(ours(**sources_of(kind), labels=labels).loss, expected)
    ours.save_pretrained(tmp_path / "ours")
    again = PlaitForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(**sources_of(kind), labels=labels).loss, expected)


# Whisper's own ways


def test_a_key_bias_is_zero_frozen_and_left_out(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    model = loaded(saved("whisper"))
    biases = {key: bias for key, bias in model.named_parameters() if key.endswith("k_proj.bias")}
    assert len(biases) == 2 + 3 + 3
    assert not any(bias.any() or bias.requires_grad for bias in biases.values())
    with torch.no_grad():
        biases["model.towers.audio.transformer.layers.1.self_attn.k_proj.bias"][3] = 0.1
    with pytest.raises(ValueError, match=r"zeros, and they are not: encoder\.transformer\.layers\.1\.self_attn"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_leaves_positions_and_key_biases_alone(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    model = loaded(saved("whisper")).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(**sources_of("whisper"), labels=torch.randint(3, 60, (3, 6))).loss.backward()
    optimizer.step()
    kept = [key for key, tensor in model.state_dict().items() if torch.equal(tensor, before[key])]
    assert len(kept) == 9
    assert all(key.endswith(("k_proj.bias", "towers.audio.embeddings.position_embedding.weight")) for key in kept)
    export(model.eval(), tmp_path)
    again = hf.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs = sources_of("whisper") | texts_of("whisper")
    expected, found = outputs_of(model, inputs)["logits"], outputs_of(again, inputs)["logits"]
    assert difference(found, expected) <= 1e-5


@torch.no_grad()
def test_an_audio_classifier_matches_transformers(tmp_path: Path) -> None:
    theirs, folder = save(whisper("ForAudioClassification", num_labels=4, classifier_proj_size=16), tmp_path)
    model, report = PlaitForClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert model.config.id2label == theirs.config.id2label
    sounds = sources_of("whisper")
    assert difference(model.eval()(**sounds).logits, theirs(**sounds).logits) <= 1e-5


# one component of them


def test_each_class_reads_its_components(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    model = PlaitForClassification.from_pretrained(saved("bart").folder, num_labels=3).eval()
    assert list(model.parts) == ["text"]
    assert model(**sources_of("bart")).logits.shape == (3, 3)
    assert list(PlaitForClassification.from_pretrained(saved("whisper").folder).parts) == ["audio"]
    with pytest.raises(ValueError, match="PlaitForConditionalGeneration"):
        PlaitForCausalLM.from_pretrained(saved("bart").folder)
    assert type(read_component(open_checkpoint(saved("bart").folder)).config) is PlaitTextConfig
    assert type(read_component(open_checkpoint(saved("whisper").folder)).config) is PlaitAudioConfig
    assert type(read_component(open_checkpoint(saved("whisper").folder), "decoder").config) is PlaitDecoderConfig
    with pytest.raises(ValueError, match="no tower for the modality 'text'"):
        PlaitModel.compose(text=str(saved("whisper").folder), verbose=False)


@torch.no_grad()
@pytest.mark.parametrize("modality", ["text", "audio"])
def test_an_encoder_alone_is_a_tower(saved: Callable[[str], Saved], modality: str, tmp_path: Path) -> None:
    name = "bart" if modality == "text" else "whisper"
    model = PlaitModel.compose(**{modality: str(saved(name).folder)}, verbose=False).eval()
    theirs, inputs = saved(name).model.get_encoder(), sources_of(name)
    mask = inputs.get("attention_mask", torch.ones(3, 12))[..., None]
    ours = model(**inputs).last_hidden_state
    assert difference(ours * mask, theirs(**inputs).last_hidden_state * mask) <= 1e-5
    with pytest.raises(ValueError, match="an encoder with its decoder"):
        export(model, tmp_path / "out")


@torch.no_grad()
@pytest.mark.parametrize("name", ["bart", "whisper", "whisper-untied"])
def test_a_decoder_keeps_its_own_cross_attention_where_the_width_fits(saved: Callable[[str], Saved], name: str) -> None:
    parts = {"text": str(saved("bart").folder), "audio": str(saved("whisper").folder)}
    model = PlaitForConditionalGeneration.compose(**parts, decoder=str(saved(name).folder), verbose=False).eval()
    theirs, weights = read_component(open_checkpoint(saved(name).folder), "decoder"), model.model.decoder.state_dict()
    assert all(torch.equal(weights[key], theirs.weights[key]) for key in weights)
    assert not any("cross_attn" in key for key in model.fresh_names)
    # fed what its own encoder gives, it writes as before
    context = saved(name).model.get_encoder()(**sources_of(name)).last_hidden_state
    texts = texts_of(name)
    decoded = model.model.decoder(texts["decoder_input_ids"], texts["decoder_attention_mask"], context=context)
    expected = saved(name).model(encoder_outputs=(context,), **texts)
    logits = model.lm_head(decoded.last_hidden_state) * texts["decoder_attention_mask"][..., None]
    assert difference(logits, expected.logits * texts["decoder_attention_mask"][..., None]) <= 1e-5
    for options in ({"fusion_config": {"hidden_size": 16}}, {"decoder_config": {"cross_attention_layers": [1]}}):
        other = PlaitForConditionalGeneration.compose(
            **parts, decoder=str(saved(name).folder), verbose=False, **options
        )
        crossing = {key for key in other.state_dict() if "cross_attn" in key and "decoder" in key}
        assert (crossing <= other.fresh_names) == ("fusion_config" in options)
        assert other(**sources_of("bart"), labels=texts["decoder_input_ids"]).loss.isfinite()


def test_a_text_tower_of_two_can_be_the_decoder(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    text, vision = {**sizes, "vocab_size": 60}, {**sizes, "image_size": 16, "patch_size": 8}
    save(hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision)), tmp_path)
    model = PlaitForCausalLM.compose(decoder=str(tmp_path), verbose=False)
    assert model.config.decoder_config.family == "clip_text_model"


def test_a_whisper_decoder_alone_reads_no_context(saved: Callable[[str], Saved]) -> None:
    model = PlaitForCausalLM.compose(decoder=str(saved("whisper").folder), verbose=False).eval()
    assert not any("cross_attn" in key for key in model.state_dict())
    assert model.generate(torch.tensor([[1, 7]]), max_new_tokens=3).shape == (1, 5)


@pytest.mark.parametrize(("kind", "modality"), [(hf.BartConfig, "text"), (hf.WhisperConfig, "audio")])
def test_dropout_comes_along(kind: type[hf.PreTrainedConfig], modality: str) -> None:
    """No parity test sees it: it acts in training only."""
    theirs = kind(dropout=0.1, attention_dropout=0.2, activation_dropout=0.3)
    for component in (modality, "decoder"):
        ours = build_component_config(theirs, component)
        assert (ours.hidden_dropout_prob, ours.attention_dropout, ours.activation_dropout) == (0.1, 0.2, 0.3)


def test_activations_are_dropped_in_training(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    save_file(saved("bart").file(), tmp_path / "model.safetensors")
    config = json.loads((saved("bart").folder / "config.json").read_text())
    config |= {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = PlaitForConditionalGeneration.from_pretrained(tmp_path).train()
    with torch.no_grad():
        first, second = (model.model(**sources_of("bart"), **texts_of("bart")).last_hidden_state for _ in range(2))
        assert not torch.equal(first, second)
        first, second = (
            model.eval().model(**sources_of("bart"), **texts_of("bart")).last_hidden_state for _ in range(2)
        )
        assert torch.equal(first, second)


# what does not fit


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("bart", "encoder_layerdrop", 0.1),
        ("bart", "decoder_layerdrop", 0.1),
        ("whisper", "apply_spec_augment", True),
        ("whisper", "use_weighted_layer_sum", True),
    ],
)
def test_a_setting_that_the_core_lacks_is_refused(
    saved: Callable[[str], Saved], name: str, key: str, value: Any, tmp_path: Path
) -> None:
    save_file(saved(name).file(), tmp_path / "model.safetensors")
    config = json.loads((saved(name).folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=f"{key} = {value}"):
        PlaitForConditionalGeneration.from_pretrained(tmp_path)


def test_a_component_is_not_written_alone(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an encoder with its decoder"):
        write_component(read_component(open_checkpoint(saved("bart").folder), "decoder"), tmp_path / "out")
