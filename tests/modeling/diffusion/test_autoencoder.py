"""Image generation on the latents of an autoencoder."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plait import PlaitForImageGeneration

from .autoencoders import DIFFUSERS, save_autoencoder
from .fields import build_model, make_inputs, seeded

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy's, of diffusers
KINDS = [*DIFFUSERS, "own"]
INPUTS = make_inputs()
IMAGES = torch.rand(3, 3, 16, 16, generator=seeded(5)) * 2 - 1
OPTIONS: dict[str, Any] = {"patch_size": 2}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_autoencoder(tmp_path_factory.mktemp("autoencoder") / request.param, request.param)


@pytest.fixture(scope="module")
def model(folder: str) -> PlaitForImageGeneration:
    model = build_model(autoencoder=folder, **OPTIONS)
    if "own" in folder:
        model.fit_latent_scale([{"target_pixel_values": IMAGES}])
    return model


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> PlaitForImageGeneration:
    return build_model(autoencoder=save_autoencoder(tmp_path_factory.mktemp("own"), "own"), **OPTIONS)


def draw(model: PlaitForImageGeneration, **options: Any) -> Tensor:
    options = {"num_inference_steps": 3, "generator": seeded(), "output_type": "pt", **options}
    return model.generate_images(**INPUTS, **options)


def differ(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def test_images_are_generated_by_way_of_latents(model: PlaitForImageGeneration) -> None:
    assert model.config.denoiser_config.image_size == 8 and model.config.denoiser_config.num_channels == 4
    images, latents = draw(model), draw(model, output_type="latent")
    assert images.shape == (3, 3, 16, 16) and latents.shape == (3, 4, 8, 8)
    assert differ(images, model.autoencoder.decode(latents).clamp(-1, 1)) == 0
    assert draw(model, height=24, width=16).shape == (3, 3, 24, 16)


def test_a_saved_model_gives_the_same_images_and_its_autoencoder_stays_fixed(
    model: PlaitForImageGeneration, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    again = PlaitForImageGeneration.from_pretrained(tmp_path)
    assert torch.equal(draw(again), draw(model))
    for each in (model, again):
        assert not any(parameter.requires_grad for parameter in each.autoencoder.parameters())
        assert any(parameter.requires_grad for parameter in each.denoiser.parameters())


def test_the_loss_is_that_of_the_latents(model: PlaitForImageGeneration) -> None:
    loss = model(**INPUTS, target_pixel_values=IMAGES).loss
    latents = model.encode_targets(IMAGES)
    times, noise = model.complete_noise(latents, None, None, IMAGES)
    assert torch.equal(model(**INPUTS, target_latents=latents, times=times, noise=noise).loss, loss)
    rows = [
        model(**{name: value[[row]] for name, value in INPUTS.items()}, target_pixel_values=IMAGES[[row]]).loss
        for row in range(3)
    ]
    assert abs(sum(rows) / 3 - loss) < 1e-5 * loss


def test_training_leaves_the_autoencoder_as_it_is(model: PlaitForImageGeneration) -> None:
    model.train()
    try:
        assert not any(module.training for module in model.autoencoder.modules())
        model(**INPUTS, target_pixel_values=IMAGES).loss.backward()
        assert all(parameter.grad is None for parameter in model.autoencoder.parameters())
        assert model.denoiser.input_proj.weight.grad.abs().max() > 0
        draws = [model.encode_targets(IMAGES) for _ in range(2)]
        is_random = differ(*draws) > 0
        assert is_random == (float(model.autoencoder.compute_posterior(IMAGES).std.max()) > 0)
    finally:
        model.zero_grad()
        model.eval()


def test_an_image_to_begin_with_is_encoded_and_the_rest_of_a_mask_is_kept(model: PlaitForImageGeneration) -> None:
    there_and_back = model.autoencoder.decode(model.encode_targets(IMAGES)).clamp(-1, 1)
    assert differ(draw(model, image=IMAGES, strength=0), there_and_back) < 1e-5
    mask = torch.zeros(16, 16)
    mask[:5, :5] = 1
    images = draw(model, image=IMAGES, mask_image=mask)
    kept = mask.bool().logical_not().expand_as(images)
    assert torch.equal(images[kept], IMAGES[kept])
    assert ((images - IMAGES).abs()[:, :, :5, :5] > 0).float().mean() > 0.9


@pytest.mark.parametrize("kind", DIFFUSERS)
def test_latents_are_those_of_diffusers(kind: str, tmp_path: Path) -> None:
    name, fields = DIFFUSERS[kind]
    model = build_model(autoencoder=save_autoencoder(tmp_path, kind), **OPTIONS).autoencoder
    theirs = getattr(import_module("diffusers"), name).from_pretrained(tmp_path)
    with torch.no_grad():
        encoded = theirs.encode(IMAGES)
        own = encoded.latents if kind == "tiny" else encoded.latent_dist.mean
        scale = theirs.config.scaling_factor
        shift = torch.tensor(fields.get("latents_mean") or theirs.config.shift_factor or 0.0)
        std = torch.tensor(fields.get("latents_std") or 1.0)
        expected = (own - shift.reshape(-1, 1, 1)) * scale / std.reshape(-1, 1, 1)
        assert differ(model.encode(IMAGES), expected) < 1e-5
        assert differ(model.decode(expected), theirs.decode(own).sample) < 1e-4


def test_our_own_latents_are_standardized_by_the_images(own: PlaitForImageGeneration) -> None:
    assert own.fit_latent_scale({"target_pixel_values": batch} for batch in IMAGES.split(2)) == 3 * 8 * 8
    places = own.encode_targets(IMAGES).transpose(0, 1).flatten(1)
    assert places.mean(dim=1).abs().max() < 1e-5
    assert (places.std(dim=1, correction=0) - 1).abs().max() < 1e-4


def test_lower_precision_generates_and_learns(own: PlaitForImageGeneration, tmp_path: Path) -> None:
    own.save_pretrained(tmp_path)
    half = PlaitForImageGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.isfinite(draw(half)).all()
    assert torch.isfinite(half(**INPUTS, target_pixel_values=IMAGES).loss)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model(**INPUTS, target_pixel_values=IMAGES[:, :, :14]), r"multiples of 4 \(patch_size 2 times"),
        (lambda model: model(**INPUTS, target_pixel_values=IMAGES[:, :1]), r"expected \(batch, 3, height, width\)"),
        (lambda model: model(**INPUTS, target_latents=IMAGES), r"target_latents .* expected \(batch, 4"),
        (lambda model: model(**INPUTS, target_latents=IMAGES, target_pixel_values=IMAGES), "pass one of them"),
        (lambda model: draw(model, height=18), "height 18 and width 16 must be multiples of 4"),
        (lambda model: model.fit_latent_scale([]), "no image at all"),
        (lambda model: build_model().fit_latent_scale([]), "no autoencoder"),
    ],
)
def test_wrong_images_are_named(own: PlaitForImageGeneration, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(own)


def test_wrong_folders_are_named(own: PlaitForImageGeneration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_model().save_pretrained(tmp_path / "without")
    with pytest.raises(ValueError, match="without has no autoencoder"):
        build_model(autoencoder=tmp_path / "without")
    with pytest.raises(OSError, match="nowhere"):
        build_model(autoencoder=tmp_path / "nowhere")
    folder = save_autoencoder(tmp_path / "own", "own")
    with pytest.raises(ValueError, match="image_size 15 is no multiple of the autoencoder's downsampling 2"):
        build_model(autoencoder=folder, image_size=15)
    with pytest.raises(ValueError, match="num_channels is 3, but the autoencoder's latents have 4"):
        build_model(autoencoder=folder, denoiser_config={"num_channels": 3})
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(ValueError, match="VQModel: pass an autoencoder of AutoencoderKL or AutoencoderTiny"):
        build_model(autoencoder=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"plait\[diffusers\]"):
        build_model(autoencoder=tmp_path)
