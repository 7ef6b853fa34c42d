"""Training a denoiser under the condition of any towers."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from plait import PlaitForImageGeneration
from plait.configuration import PlaitAutoencoderConfig, PlaitRNNConfig, PlaitTextConfig, PlaitVisionConfig
from plait.modeling.composition.summary import describe_kind
from plait.modeling.fusion import FUSIONS

SIZE, PATCH, ROWS = 16, 4, 3
TOWER: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def build(image: bool = False, **options: Any) -> PlaitForImageGeneration:
    """A tiny model with nothing at zero."""
    torch.manual_seed(0)
    towers: dict[str, Any] = {"text": PlaitTextConfig(vocab_size=50, max_position_embeddings=16, **TOWER)}
    if image:
        towers["image"] = PlaitVisionConfig(image_size=8, patch_size=4, **TOWER)
    sizes = {"image_size": SIZE, "patch_size": PATCH, "hidden_size": 16, "num_hidden_layers": 2}
    model = PlaitForImageGeneration.compose(
        **towers, **{**sizes, "num_attention_heads": 2, "verbose": False, **options}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def make_batch(image: bool = False, rows: int = ROWS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = (torch.arange(7)[None] < torch.tensor([7, 4, 5])[:rows, None]).long()
    batch = {"input_ids": torch.randint(1, 50, (rows, 7), generator=generator) * mask, "attention_mask": mask}
    if image:
        batch["pixel_values"] = torch.randn(rows, 3, 8, 8, generator=generator)
    return {**batch, "target_pixel_values": torch.rand(rows, 3, SIZE, SIZE, generator=generator) * 2 - 1}


def condition_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name not in ("target_pixel_values", "noise", "times")}


def fixed_noise(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    images = batch["target_pixel_values"]
    generator = torch.Generator().manual_seed(3)
    return {**batch, "noise": torch.randn(images.shape, generator=generator), "times": torch.tensor([0.1, 0.4, 0.9])}


def generate(model: PlaitForImageGeneration, batch: dict[str, Tensor], **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    options = {"num_inference_steps": 3, "generator": generator, "output_type": "pt", **options}
    return model.generate_images(**condition_of(batch), **options)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_is_a_condition(fusion: str) -> None:
    """It trains a step in which every parameter gets a gradient, learns, and generates; a row that lacks a modality, or
    both, is what it is alone."""
    model, batch = build(image=True, fusion=fusion, query="text"), make_batch(image=True)
    holes = {**batch, "attention_mask": batch["attention_mask"].clone(), "image_present": torch.ones(ROWS, 1).bool()}
    holes["attention_mask"][[0, 2]] = 0
    holes["image_present"][1:] = False
    losses = [model(**fixed_noise(each)).loss for each in (batch, holes)]
    torch.stack(losses).sum().backward()
    assert {name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()} == set()
    images, generator = generate(model, holes), torch.Generator().manual_seed(1)
    text = {name: batch[name][1:2] for name in ("input_ids", "attention_mask")}
    alone: list[dict[str, Tensor]] = [{"pixel_values": batch["pixel_values"][:1]}, text, {}]
    again = torch.cat([generate(model, each, generator=generator) for each in alone])
    assert (images - again).abs().max() < 1e-4
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-4 * parameter.grad
        assert sum(model(**fixed_noise(each)).loss for each in (batch, holes)) < sum(losses)


@pytest.mark.parametrize(
    ("tower", "inputs"),
    [
        ({"image": PlaitVisionConfig(image_size=8, patch_size=4, **TOWER)}, {"pixel_values": (ROWS, 3, 8, 8)}),
        ({"audio": PlaitRNNConfig(num_mel_bins=4, rnn_size=8)}, {"input_features": (ROWS, 4, 6)}),
        (
            {"video": PlaitVisionConfig(image_size=8, patch_size=4, **TOWER)},
            {"pixel_values_videos": (ROWS, 2, 3, 8, 8)},
        ),
    ],
    ids=["image", "audio", "video"],
)
def test_any_tower_alone_is_a_condition(tower: dict[str, Any], inputs: dict[str, tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    sizes = {"image_size": SIZE, "patch_size": PATCH, "hidden_size": 16, "num_hidden_layers": 1}
    model = PlaitForImageGeneration.compose(**tower, **sizes, num_attention_heads=2, verbose=False)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    batch = {name: torch.randn(shape) for name, shape in inputs.items()}
    model(**fixed_noise({**batch, "target_pixel_values": torch.zeros(ROWS, 3, SIZE, SIZE)})).loss.backward()
    assert all(each.grad is not None for each in model.parameters() if each.requires_grad)
    images = generate(model, batch, guidance_scale=3)
    other = generate(model, {name: value.flip(0) for name, value in batch.items()}, guidance_scale=3)
    assert images.shape == (ROWS, 3, SIZE, SIZE)
    assert (images[0] - other[0]).abs().max() > 1e-3
    assert (images[1] - other[1]).abs().max() < 1e-5


@torch.no_grad()
def test_the_evaluation_loss_depends_on_nothing_but_the_row() -> None:
    model, batch = build(), make_batch()
    first, again = model(**batch), model(**batch)
    assert torch.equal(first.loss, again.loss)
    alone = [model(**{name: value[row : row + 1] for name, value in batch.items()}) for row in range(ROWS)]
    assert torch.allclose(first.loss, torch.stack([each.loss for each in alone]).mean(), rtol=1e-5)
    backwards = model(**{name: value.flip(0) for name, value in batch.items()})
    assert torch.allclose(first.prediction, backwards.prediction.flip(0), atol=1e-5)
    state = torch.get_rng_state()
    model(**batch)
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_rows_or_divided_as_asked() -> None:
    model, batch = build(), make_batch()
    loss = model(**batch).loss
    assert torch.allclose(model(**batch, num_items_in_batch=2 * ROWS).loss, loss / 2)
    assert torch.allclose(model(**batch, num_items_in_batch=torch.tensor(2 * ROWS)).loss, loss / 2)


def test_training_draws_new_noise_and_hides_conditions() -> None:
    model, batch = build(denoiser_config={"condition_dropout": 0.5}).train(), make_batch()
    losses = {model(**batch).loss.item() for _ in range(4)}
    assert len(losses) == 4
    torch.manual_seed(0)
    hidden = torch.stack([model.draw_hidden({"text": None}, 100)["text"] for _ in range(20)]).float().mean()  # type: ignore[dict-item]
    assert 0.45 < hidden < 0.55
    kept = build(denoiser_config={"condition_dropout": 1.0}).train()
    same = kept(**fixed_noise(batch)).prediction
    other = {**batch, "input_ids": batch["input_ids"].roll(1, dims=1)}
    assert torch.equal(same, kept(**fixed_noise(other)).prediction)
    assert not torch.equal(kept.eval()(**fixed_noise(batch)).prediction, same)


def test_modalities_are_hidden_independently() -> None:
    model = build(image=True, fusion="early", denoiser_config={"condition_dropout": {"text": 0.5, "image": 0.25}})
    torch.manual_seed(0)
    drawn = [model.draw_hidden(dict.fromkeys(("text", "image")), 1000) for _ in range(2)]  # type: ignore[arg-type]
    for hidden in drawn:
        assert 0.42 < hidden["text"].float().mean() < 0.58
        assert 0.18 < hidden["image"].float().mean() < 0.32
        assert 0.08 < (hidden["text"] & hidden["image"]).float().mean() < 0.17


def test_gradient_checkpointing_changes_nothing() -> None:
    grads = []
    for checkpointing in (False, True):
        model, batch = build().train(), fixed_noise(make_batch())
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(5)
        model(**batch).loss.backward()
        grads.append([each.grad.clone() for each in model.denoiser.parameters() if each.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 30
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*grads, strict=True))


@torch.no_grad()
def test_eager_attention_is_sdpa() -> None:
    model, batch = build(), fixed_noise(make_batch())
    usual, images = model(**batch), generate(model, batch)
    model.set_attn_implementation("eager")
    assert (model(**batch).prediction - usual.prediction).abs().max() < 1e-5
    assert (generate(model, batch) - images).abs().max() < 1e-4
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match="cannot add learned relative positions"):
        model.denoiser(batch["noise"], batch["times"], torch.zeros(ROWS, 1, 16), torch.ones(ROWS, 1).bool())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reloaded_model_generates_the_same_images(tmp_path: Path, dtype: torch.dtype) -> None:
    model, batch = build(image=True, fusion="early").to(dtype), make_batch(image=True)
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    model.fit_condition_scale([condition_of(batch)])
    model.save_pretrained(tmp_path)
    again = PlaitForImageGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert torch.equal(generate(model, batch, guidance_scale=3), generate(again, batch, guidance_scale=3))
    assert torch.equal(model(**fixed_noise(batch)).loss, again(**fixed_noise(batch)).loss)


@torch.no_grad()
def test_padding_and_batch_are_invisible() -> None:
    model, batch = build(), fixed_noise(make_batch())
    usual = model(**batch).prediction
    padded = {**batch}
    for name in ("input_ids", "attention_mask"):
        padded[name] = torch.nn.functional.pad(batch[name], (0, 4))
    assert (model(**padded).prediction - usual).abs().max() < 1e-5
    one = model(**{name: value[1:2] for name, value in batch.items()}).prediction
    assert (one - usual[1:2]).abs().max() < 1e-5


@torch.no_grad()
def test_the_scale_of_the_condition_is_that_of_its_tokens() -> None:
    model, batch = build(), make_batch()
    outputs = model.encode_towers(batch)["text"]
    real = outputs.last_hidden_state[outputs.mask.bool()]
    assert model.fit_condition_scale([condition_of(batch)]) == 16 == len(real)
    assert torch.allclose(model.condition_scale.mean, real.mean(dim=0), atol=1e-6)
    assert torch.allclose(model.condition_scale.std, real.std(dim=0, unbiased=False), atol=1e-5)
    tokens, mask = model.encode_condition(batch, ROWS)
    assert tokens[mask].mean(dim=0).abs().max() < 1e-5
    assert model.fit_condition_scale([condition_of(batch)]) == 16  # again: from the unscaled tokens
    assert torch.allclose(model.condition_scale.mean, real.mean(dim=0), atol=1e-6)


def test_other_sizes_train_by_interpolated_positions() -> None:
    model, batch = build(), make_batch()
    batch["target_pixel_values"] = torch.rand(ROWS, 3, 2 * SIZE, SIZE + PATCH) * 2 - 1
    model(**batch).loss.backward()
    grads = dict(model.denoiser.named_parameters())
    assert grads["position_embedding.weight"].grad.any()
    assert grads["transformer.layers.0.self_attn.position_bias.weight"].grad.any()


def test_lora_on_the_denoiser_trains_and_generates(tmp_path: Path) -> None:
    model, batch = build(), make_batch()
    before = generate(model, batch)
    targets = r"denoiser\..*attn\.(q_proj|k_proj|v_proj|o_proj)"
    tuned: Any = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    trainable = [name for name, each in tuned.named_parameters() if each.requires_grad]
    assert trainable
    assert all("denoiser" in name and "lora" in name for name in trainable)
    assert torch.equal(generate(model, batch), before)  # B starts at zero
    optimizer = torch.optim.SGD([each for each in tuned.parameters() if each.requires_grad], lr=1.0)
    losses = []
    for _ in range(5):
        loss = tuned(**fixed_noise(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    images = generate(tuned, batch)
    assert (images - before).abs().max() > 1e-4
    tuned.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build(), tmp_path)
    assert torch.equal(generate(again.get_base_model(), batch), images)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"target_pixel_values": None}, "no target_pixel_values"),
        ({"target_pixel_values": torch.zeros(ROWS, 1, SIZE, SIZE)}, "target_pixel_values has shape"),
        ({"target_pixel_values": torch.zeros(ROWS, 3, SIZE + 1, SIZE)}, "multiples of patch_size 4"),
        ({"target_pixel_values": torch.zeros(ROWS + 1, 3, SIZE, SIZE)}, "text has 3 rows for 4 images"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        build()(**{**make_batch(), **change})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"image_size": 18}, "image_size 18 is no multiple of patch_size 4"),
        ({"denoiser_config": {"condition_dropout": 1.5}}, "condition_dropout is 1.5"),
        ({"denoiser_config": {"condition_dropout": {"audio": 0.1}}}, "names audio, but the towers are text"),
        ({"denoiser_config": {"time_std": 0}}, "time_std is 0"),
    ],
)
def test_wrong_configs_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        build(**options)


def test_the_towers_keep_no_states_that_nobody_reads() -> None:
    model, batch = build(image=True, fusion="early", query="text"), make_batch(image=True)
    for output in model.encode_towers(condition_of(batch)).values():
        assert output.hidden_states is None and output.attentions is None


def test_the_table_names_the_denoiser_and_the_autoencoder() -> None:
    rows = {row.part: row.kind for row in build().composition().rows}
    assert rows["denoiser"] == "rectified flow, image" and rows["text"] == "plait_text" and rows["head"] == "-"
    drawing = build(image=True, fusion="early", denoiser_config={"prediction": "velocity"}).composition()
    kinds = {row.part: row.kind for row in drawing.rows}
    assert kinds["denoiser"] == "rectified flow, velocity" and kinds["fusion"] == "early, linear"
    config = build().config
    assert describe_kind(config, "autoencoder") == "-"
    config.autoencoder_config = PlaitAutoencoderConfig()
    assert describe_kind(config, "autoencoder") == "plait_autoencoder"
