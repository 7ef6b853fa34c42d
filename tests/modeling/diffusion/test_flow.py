"""The straight line from noise to an image, and its velocity."""

import pytest
import torch

from plait.modeling.diffusion.flow import compute_velocity, flow_loss, mix

IMAGE, NOISE = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TIMES = torch.tensor([0.0, 0.2, 0.5, 0.9], dtype=torch.float64)


def test_the_velocity_leads_from_the_noise_to_the_image() -> None:
    noisy = mix(IMAGE, NOISE, TIMES)
    torch.testing.assert_close(compute_velocity(IMAGE, noisy, TIMES), IMAGE - NOISE, rtol=0, atol=1e-12)
    step = 0.05
    moved = noisy + step * compute_velocity(IMAGE, noisy, TIMES)
    torch.testing.assert_close(moved, mix(IMAGE, NOISE, TIMES + step), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["image", "velocity"])
def test_the_loss_is_the_mean_squared_error_of_the_velocity(kind: str) -> None:
    prediction = torch.randn(IMAGE.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    velocity = prediction
    if kind == "image":
        velocity = (prediction - mix(IMAGE, NOISE, TIMES)) / (1 - TIMES)[:, None, None, None]
    expected = (velocity - (IMAGE - NOISE)).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(flow_loss(prediction, IMAGE, NOISE, TIMES, kind), expected, rtol=1e-12, atol=0)
