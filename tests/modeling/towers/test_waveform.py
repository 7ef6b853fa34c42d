"""The parts of a tower of waveforms."""

import pytest
import torch

from plait.modeling.towers.waveform import TimeNorm

FRAMES, LENGTHS = 9, (9, 5, 1)


def build_norm() -> TimeNorm:
    norm = TimeNorm(4)
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return norm


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-3])
def test_a_channel_is_normed_over_its_real_frames(scale: float) -> None:
    """(x - mean) / sqrt(variance + eps) by hand; at the smallest scale eps decides."""
    norm, x = build_norm(), scale * torch.randn(3, 4, FRAMES, generator=torch.Generator().manual_seed(1))
    found = norm(x, torch.tensor(LENGTHS))
    for clip, length in enumerate(LENGTHS):
        real = x[clip, :, :length].double()
        variance = real.var(dim=1, unbiased=False, keepdim=True)
        unit = (real - real.mean(dim=1, keepdim=True)) / (variance + norm.eps).sqrt()
        expected = unit * norm.weight.double()[:, None] + norm.bias.double()[:, None]
        torch.testing.assert_close(found[clip, :, :length].double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_silence_is_finite_and_lengths_that_hide_nothing_change_nothing() -> None:
    norm, x = build_norm(), torch.randn(2, 4, FRAMES, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(norm(x, torch.tensor([FRAMES, FRAMES])), norm(x), rtol=1e-4, atol=1e-5)
    silent = norm(torch.full((2, 4, FRAMES), 0.5), torch.tensor([FRAMES, 3]))
    assert torch.equal(silent[..., :3], norm.bias[:, None].expand(2, 4, 3))
