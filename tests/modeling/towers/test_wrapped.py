"""Wrapped towers: what transformers computes, behind the towers' interface, saved and read back with the plait."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plait import PlaitForClassification, PlaitModel
from plait.configuration import width_of
from plait.modeling.towers.wrapped import WrappedTower, load_wrapped

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {"vocab_size": 64, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT |= SIZES
IMAGE = {"image_size": 32, "patch_size": 8, **SIZES}
BART = {"vocab_size": 64, "d_model": 32, "max_position_embeddings": 40, "pad_token_id": 0}
BART |= {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
BART |= {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
T5 = {"vocab_size": 64, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
SMALL = {"width_coefficient": 0.1, "depth_coefficient": 0.3}
ALIGN = {"text_config": TEXT, "vision_config": {"image_size": 32, "hidden_dim": 128, **SMALL}}
DINO = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}

TEXTS: dict[str, dict[str, Any]] = {
    "modernbert": {**TEXT, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8},
    "albert": {**TEXT, "embedding_size": 16},
    "t5": T5,
    "bart": BART,
    "opt": {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 16},
    "gpt_neox": TEXT,
    "mixtral": {**TEXT, "num_key_value_heads": 2, "num_local_experts": 2},
    "mamba": {"vocab_size": 64, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2},
}
IMAGES: dict[str, dict[str, Any]] = {
    "convnext": STAGES,
    "swin": SWIN,
    "regnet": {"embedding_size": 8, "groups_width": 8, **STAGES},
    "beit": IMAGE,
    "dinov2_with_registers": DINO,
    "pvt_v2": {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]},
}
# families whose width no field of the config names plainly
WIDE: dict[str, dict[str, Any]] = {
    "cvt": {"embed_dim": [8, 16, 24], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
    "efficientnet": {"hidden_dim": 128, **SMALL},
    "focalnet": {"image_size": 32, "embed_dim": 8, "depths": [1, 1, 1]},
    "mobilenet_v1": {"depth_multiplier": 0.3},
    "mobilenet_v2": {"depth_multiplier": 0.3},
    "mobilevit": {
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 40],
        "num_attention_heads": 2,
    },
    "mobilevitv2": {"width_multiplier": 0.3, "base_attn_unit_dims": [16, 16, 16]},
    "swiftformer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32], "image_size": 32},
    "swinv2": {**SWIN, "embed_dim": 16},
}
FUSION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}


def config_of(name: str, fields: dict[str, Any] | None = None) -> hf.PreTrainedConfig:
    return hf.AutoConfig.for_model(name, **(fields or {**TEXTS, **IMAGES}[name]))


def draw(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.2, generator=generator)
            if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
                tensor.abs_().add_(0.5)
    return model.eval()


def saved(name: str, folder: Path, fields: dict[str, Any] | None = None) -> hf.PreTrainedModel:
    """A drawn checkpoint on disk, and transformers' own reading of it."""
    draw(hf.AutoModel.from_config(config_of(name, fields))).save_pretrained(folder)
    return hf.AutoModel.from_pretrained(folder)


def loaded(folder: Path, modality: str) -> WrappedTower:
    config, part = load_wrapped(folder, modality)
    tower = WrappedTower(config, modality)
    tower.model.load_state_dict(part.state_dict())
    return tower.eval()


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for the rounding of a convolution, which depends on where in memory its weights lie."""
    return bool((found - expected).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1))


def texts() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(3, 64, (3, 9), generator=generator), "attention_mask": mask}


def pictures() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def composed(**towers: Any) -> PlaitForClassification:
    torch.manual_seed(0)
    model = PlaitForClassification.compose(**towers, labels=3, fusion_config=FUSION, verbose=False)
    return model.eval()


def inputs() -> dict[str, Tensor]:
    return {**texts(), "pixel_values": pictures(), "labels": torch.tensor([0, 1, 2])}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_tower_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    theirs = saved(name, tmp_path)
    reader = theirs.get_encoder() if name in ("t5", "bart") else theirs
    tower = loaded(tmp_path, "text")
    with torch.no_grad():
        output, expected = tower(**texts()), reader(**texts()).last_hidden_state
    assert torch.equal(output.last_hidden_state, expected)
    assert output.last_hidden_state.shape[-1] == width_of(theirs.config, "text")
    assert torch.equal(output.mask, texts()["attention_mask"])


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_tower_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    theirs = saved(name, tmp_path)
    tower = loaded(tmp_path, "image")
    with torch.no_grad():
        output, expected = tower(pixel_values=pictures()), theirs(pictures())
    tokens = expected.last_hidden_state
    if tokens.ndim == 4:  # a feature map: its places row by row, channels last
        tokens = torch.stack([tokens[:, :, y, x] for y in range(tokens.shape[2]) for x in range(tokens.shape[3])], 1)
    assert close(output.last_hidden_state, tokens)
    assert output.mask.all()
    assert output.mask.shape == tokens.shape[:2]
    if name != "pvt_v2":  # which has no pooler
        assert close(output.pooler_output, expected.pooler_output.flatten(1))


@pytest.mark.parametrize("name", WIDE)
def test_the_width_is_known_from_the_config(name: str) -> None:
    config = config_of(name, WIDE[name])
    with torch.no_grad():
        output = WrappedTower(config, "image").eval()(pixel_values=torch.randn(1, 3, 64, 64))
    assert output.last_hidden_state.shape[-1] == width_of(config)


def test_a_config_that_hides_its_width_is_an_error() -> None:
    with pytest.raises(ValueError, match="perceiver.*how wide"):
        width_of(hf.PerceiverConfig())


def test_a_wrong_width_in_the_config_is_an_error() -> None:
    tower = WrappedTower(config_of("convnext"), "image")
    tower.width += 1
    with pytest.raises(ValueError, match="tokens of width 32, its config says 33"):
        tower(pixel_values=pictures())


@pytest.mark.parametrize(("text", "image"), list(zip(TEXTS, [*IMAGES, "swin", "beit"], strict=True)))
def test_a_plait_of_wrapped_towers_reloads_bit_by_bit(text: str, image: str, tmp_path: Path) -> None:
    saved(text, tmp_path / "text")
    saved(image, tmp_path / "image")
    model = composed(text=tmp_path / "text", image=tmp_path / "image")
    model.save_pretrained(tmp_path / "plait")
    again, report = PlaitForClassification.from_pretrained(tmp_path / "plait", output_loading_info=True)
    assert not any(report.values())
    weights = again.state_dict()
    with safe_open(tmp_path / "plait/model.safetensors", "pt") as file:
        assert set(file.keys()) == set(weights) == set(model.state_dict())
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable == {name for name, weight in again.named_parameters() if weight.requires_grad}
    assert close(model(**inputs()).logits, again(**inputs()).logits)
    again.save_pretrained(tmp_path / "twice")
    assert load_file(tmp_path / "twice/model.safetensors").keys() == weights.keys()


@pytest.mark.parametrize("name", ["swin", "beit", "mixtral"])
def test_transformers_alone_saves_these_under_other_names(name: str, tmp_path: Path) -> None:
    """Were it not so, the test above would not see the renaming."""
    names = set(saved(name, tmp_path).state_dict())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) != names


@pytest.mark.parametrize("modality", ["text", "image"])
def test_either_tower_of_a_two_tower_checkpoint_composes(modality: str, tmp_path: Path) -> None:
    theirs = saved("align", tmp_path / "align", ALIGN)
    other = {"image": config_of("convnext")} if modality == "text" else {"text": config_of("albert")}
    model = composed(**{modality: tmp_path / "align"}, **other)
    tower = model.model.towers[modality]
    reader = theirs.text_model if modality == "text" else theirs.vision_model
    given = texts() if modality == "text" else {"pixel_values": pictures()}
    with torch.no_grad():
        expected = reader(**given).last_hidden_state
        found = tower(**given).last_hidden_state
    assert close(found, expected if modality == "text" else expected.flatten(2).transpose(1, 2))
    model.save_pretrained(tmp_path / "plait")
    again = PlaitForClassification.from_pretrained(tmp_path / "plait")
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())


def test_a_two_tower_checkpoint_alone_must_be_told_which(tmp_path: Path) -> None:
    saved("align", tmp_path, ALIGN)
    with pytest.raises(ValueError, match="the towers text, image: name one of them"):
        PlaitModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["beit", "albert"])
def test_a_lone_wrapped_tower_keeps_its_pooler(name: str, tmp_path: Path) -> None:
    theirs = saved(name, tmp_path)
    given = {"pixel_values": pictures()} if name == "beit" else texts()
    with torch.no_grad():
        output, expected = PlaitModel.from_pretrained(tmp_path)(**given), theirs(**given)
    assert close(output.last_hidden_state, expected.last_hidden_state)
    assert close(output.pooler_output, expected.pooler_output)
    assert output.encoder_outputs is None


def test_a_fusion_has_no_use_for_a_pooler(tmp_path: Path) -> None:
    saved("albert", tmp_path / "text")
    saved("beit", tmp_path / "image")
    model = composed(text=tmp_path / "text", image=tmp_path / "image").train()
    assert not [name for name in model.state_dict() if "pooler" in name]
    model(**inputs()).loss.backward()
    assert not [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


def test_a_checkpoint_without_its_pooler_gives_a_tower_without_one(tmp_path: Path) -> None:
    """And not one with a random pooler."""
    saved("albert", tmp_path)
    rewrite(tmp_path, without="pooler")
    assert PlaitModel.from_pretrained(tmp_path)(**texts()).pooler_output is None


@pytest.mark.parametrize(("name", "lost"), [("convnext", "stages.2"), ("regnet", "running_var")])
def test_a_checkpoint_that_lacks_weights_is_an_error(name: str, lost: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    rewrite(tmp_path, without=lost)
    with pytest.raises(ValueError, match=f"has no weights for .*{lost}"):
        load_wrapped(tmp_path, "image")


def rewrite(folder: Path, without: str) -> None:
    file = folder / "model.safetensors"
    kept = {name: weight.clone() for name, weight in load_file(file).items() if without not in name}
    save_file(kept, file, metadata={"format": "pt"})


def test_a_causal_tower_pools_its_last_token() -> None:
    torch.manual_seed(0)
    tower = WrappedTower(config_of("gpt_neox"), "text").eval()
    output = tower(**texts())
    last = texts()["attention_mask"].sum(1) - 1
    assert torch.equal(output.pooler_output, output.last_hidden_state[torch.arange(3), last])


def test_an_encoder_of_an_encoder_decoder_pools_nothing() -> None:
    assert WrappedTower(config_of("bart"), "text").eval()(**texts()).pooler_output is None


@pytest.mark.parametrize("name", ["pegasus", "dinov2_with_registers"])
def test_what_never_learns_stays_frozen(name: str, tmp_path: Path) -> None:
    """Sinusoidal positions, a mask token: also after a reload, which makes every weight trainable at first."""
    if name == "pegasus":
        fields, modality, fixed = BART, "text", "embed_positions.weight"
        other = {"image": config_of("convnext")}
    else:
        fields, modality, fixed = DINO, "image", "embeddings.mask_token"
        other = {"text": config_of("albert")}
    composed(**{modality: config_of(name, fields)}, **other).save_pretrained(tmp_path)
    tower = PlaitForClassification.from_pretrained(tmp_path).model.towers[modality]
    assert [key for key, weight in tower.named_parameters() if not weight.requires_grad] == [f"model.{fixed}"]


def test_asked_for_attentions_are_real() -> None:
    tower = WrappedTower(config_of("swin"), "image").eval()
    before = tower.model.config._attn_implementation
    plain, output = tower(pixel_values=pictures()), tower(pixel_values=pictures(), output_attentions=True)
    assert before == tower.model.config._attn_implementation == "sdpa"
    assert len(output.attentions) == 2
    assert torch.allclose(output.attentions[0].sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(plain.last_hidden_state, output.last_hidden_state, atol=1e-5)
    assert plain.attentions is None


def test_hidden_states_are_tokens_too() -> None:
    output = WrappedTower(config_of("regnet"), "image").eval()(pixel_values=pictures(), output_hidden_states=True)
    assert [state.shape[-1] for state in output.hidden_states] == [8, 8, 16, 24, 32]
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


def test_segments_are_left_out_where_a_family_has_none() -> None:
    tower = WrappedTower(config_of("t5"), "text").eval()
    segments = torch.ones(3, 9, dtype=torch.long)
    assert torch.equal(tower(**texts(), token_type_ids=segments).last_hidden_state, tower(**texts()).last_hidden_state)


def test_an_input_that_a_family_does_not_take_is_an_error() -> None:
    tower = WrappedTower(config_of("t5"), "text")
    with pytest.raises(ValueError, match="a wrapped t5 tower does not take position_ids"):
        tower(**texts(), position_ids=torch.arange(9)[None])


@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        ("convnext", "text", "ConvNextModel does not read input_ids"),
        ("albert", "image", "AlbertModel does not read pixel_values"),
        ("vit_mae", "image", "ViTMAEModel hides patches at random"),
        ("whisper", "text", "WhisperEncoder does not read input_ids"),
        ("albert", "audio", "AlbertModel does not read input_values"),
        (
            "timesformer",
            "image",
            "TimesformerModel does not read pixel_values: it is no tower for the modality 'image'",
        ),
        ("albert", "video", "AlbertModel does not read pixel_values_videos"),
    ],
)
def test_what_cannot_be_a_tower_is_an_error(name: str, modality: str, message: str) -> None:
    whisper = {key: value for key, value in BART.items() if "position" not in key}
    fields = {"vit_mae": IMAGE, "timesformer": IMAGE, "whisper": whisper}
    with pytest.raises(ValueError, match=message):
        WrappedTower(config_of(name, fields.get(name)), modality)


def test_embeddings_in_the_place_of_ids() -> None:
    tower = WrappedTower(config_of("modernbert"), "text").eval()
    given = texts()
    embedded = tower.get_input_embeddings()(given.pop("input_ids"))
    expected = tower(**texts()).last_hidden_state
    assert torch.allclose(tower(inputs_embeds=embedded, **given).last_hidden_state, expected, atol=1e-6)


def test_the_towers_hold_the_plaits_own_configs(tmp_path: Path) -> None:
    """Or a change of the attention implementation would not reach them."""
    model = composed(text=config_of("modernbert"), image=config_of("swin"))
    assert model.model.towers["text"].model.config is model.config.text_config
    assert model.model.towers["image"].model.config is model.config.vision_config
    expected = model(**inputs()).logits
    model.set_attn_implementation("eager")
    assert model.config.vision_config._attn_implementation == "eager"
    assert torch.allclose(model(**inputs()).logits, expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = PlaitForClassification.from_pretrained(tmp_path, attn_implementation={"text_config": "eager"})
    assert again.model.towers["text"].model.config._attn_implementation == "eager"
    assert again.model.towers["image"].model.config._attn_implementation == "sdpa"


def test_a_family_without_the_fast_attention_composes_under_it(tmp_path: Path) -> None:
    composed(text=config_of("albert"), image=config_of("convnext")).save_pretrained(tmp_path)
    model = PlaitForClassification.from_pretrained(tmp_path, attn_implementation="sdpa")
    assert model.model.towers["text"].model.config._attn_implementation == "sdpa"
    assert model.model.towers["image"].model.config._attn_implementation == "eager"


def test_what_a_family_keeps_in_full_precision_or_whole_is_kept(tmp_path: Path) -> None:
    composed(text=config_of("t5"), image=config_of("swin")).save_pretrained(tmp_path)
    model = PlaitForClassification.from_pretrained(tmp_path, dtype=torch.float16)
    full = [name for name, weight in model.named_parameters() if weight.dtype == torch.float32]
    assert full
    assert all(name.endswith("DenseReluDense.wo.weight") for name in full)
    assert {"T5Block", "SwinStage", "PlaitLayer"} <= set(model._no_split_modules)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = composed(text=config_of("modernbert"), image=config_of("swin")).train()
    expected = gradients(model)
    model.gradient_checkpointing_enable()
    found = gradients(model)
    assert all(torch.allclose(gradient, found[name], atol=1e-6) for name, gradient in expected.items())


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(0)
    model(**inputs()).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_a_cache_continues_where_it_stopped() -> None:
    tower = WrappedTower(config_of("gpt_neox"), "text").eval()
    ids, mask = texts()["input_ids"], torch.ones(3, 9, dtype=torch.long)
    whole = tower(input_ids=ids, attention_mask=mask)
    first = tower(input_ids=ids[:, :5], attention_mask=mask[:, :5], past_key_values=hf.DynamicCache())
    rest = tower(input_ids=ids[:, 5:], attention_mask=mask, past_key_values=first.past_key_values)
    assert torch.allclose(rest.last_hidden_state, whole.last_hidden_state[:, 5:], atol=1e-6)
    assert rest.mask.shape == (3, 4)
    assert whole.past_key_values is None
