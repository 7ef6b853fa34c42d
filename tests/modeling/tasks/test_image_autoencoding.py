"""Training an autoencoder of images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from plait import PlaitConfig, PlaitForImageAutoencoding
from plait.configuration import PlaitAutoencoderConfig, PlaitTextConfig

FIELDS: dict[str, Any] = {"hidden_sizes": [8, 16], "latent_channels": 2}


def make_images(rows: int = 4) -> torch.Tensor:
    """Images of 4 x 4 squares of random colours, 8 pixels."""
    colours = torch.rand(rows, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return colours.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def compose(**fields: Any) -> PlaitForImageAutoencoding:
    torch.manual_seed(0)
    return PlaitForImageAutoencoding.compose(autoencoder_config={**FIELDS, **fields}, verbose=False)


def test_the_loss_is_its_equation() -> None:
    model, images = compose(kl_weight=0.5), make_images()
    output = model(target_pixel_values=images)
    posterior = model.autoencoder.compute_posterior(images)
    distribution = torch.distributions.Normal(posterior.mean, posterior.std)
    divergence = torch.distributions.kl_divergence(distribution, torch.distributions.Normal(0.0, 1.0)).sum()
    errors = (output.reconstruction - images).abs().sum()
    assert torch.allclose(output.loss, (errors + 0.5 * divergence) / images.numel(), rtol=1e-5)
    assert torch.allclose(model(target_pixel_values=images, num_items_in_batch=8).loss, output.loss / 2, rtol=1e-5)
    assert output.latents.shape == (4, 2, 4, 4) and output.reconstruction.shape == images.shape


def test_training_reconstructs_what_the_mean_image_does_not() -> None:
    model, images = compose(), make_images()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    model.train()
    for _ in range(80):
        optimizer.zero_grad()
        model(target_pixel_values=images).loss.backward()
        optimizer.step()
    model.eval()
    error = (model(target_pixel_values=images).reconstruction - images).square().mean()
    assert error < 0.5 * (images - images.mean(dim=0)).square().mean()


def test_training_draws_latents_and_evaluation_does_not() -> None:
    model, images = compose(), make_images()
    assert torch.equal(model(target_pixel_values=images).loss, model(target_pixel_values=images).loss)
    model.train()
    assert not torch.equal(model(target_pixel_values=images).latents, model(target_pixel_values=images).latents)


def test_a_saved_autoencoder_gives_the_same_images_and_learns(tmp_path: Path) -> None:
    model, images = compose(), make_images()
    model.save_pretrained(tmp_path)
    for again in (
        PlaitForImageAutoencoding.from_pretrained(tmp_path),
        PlaitForImageAutoencoding.compose(autoencoder=tmp_path, verbose=False),
    ):
        output = again(target_pixel_values=images)
        assert torch.equal(output.reconstruction, model(target_pixel_values=images).reconstruction)
        output.loss.backward()
        assert all(parameter.grad is not None for parameter in again.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compose(hidden_sizes=[8, 12]), "hidden_sizes has 12, which is no multiple of group_size 8"),
        (lambda: compose(hidden_sizes=[]), "hidden_sizes is empty"),
        (lambda: compose(depth=0), "depth is 0: expected at least 1"),
        (lambda: compose(diffusers_config={"_class_name": "VQModel"}), "class 'VQModel'"),
        (lambda: compose(diffusers_config={"_class_name": "AutoencoderKL"}), "has no block_out_channels"),
        (lambda: compose()(target_pixel_values=make_images()[:, :, :7]), "the autoencoder.s downsampling 2"),
        (lambda: PlaitForImageAutoencoding(PlaitConfig()), "no autoencoder_config"),
        (
            lambda: PlaitForImageAutoencoding(
                PlaitConfig(autoencoder_config=PlaitAutoencoderConfig(**FIELDS), text_config=PlaitTextConfig())
            ),
            "has towers",
        ),
        (
            lambda: PlaitForImageAutoencoding.compose("folder", autoencoder_config=FIELDS),
            "leave autoencoder_config out",
        ),
    ],
)
def test_mistakes_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
