"""The parts of a tower of waveforms."""

from typing import Any

import pytest
import torch

from plait.configuration import PlaitWaveformConfig
from plait.modeling.towers.waveform import TimeNorm, WaveformEmbeddings, build_length_mask

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


def build_encoder(**fields: Any) -> WaveformEmbeddings:
    torch.manual_seed(0)
    config = PlaitWaveformConfig(
        hidden_size=8, num_attention_heads=2, conv_dim=[4, 6], conv_kernel=[4, 3], conv_stride=[2, 2],
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **fields,
    )  # fmt: skip
    embeddings = WaveformEmbeddings(config)
    for module in embeddings.modules():
        if hasattr(module, "init_weights"):
            module.init_weights(0.02)
    return embeddings.eval()


@torch.no_grad()
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_padding_of_a_clip_is_invisible_and_lengths_are_those_of_the_convolutions(norm: str) -> None:
    embeddings = build_encoder(feat_extract_norm=norm)
    clip, padded, mask = torch.randn(1, 21), torch.zeros(2, 40), torch.zeros(2, 40, dtype=torch.long)
    padded[0, :21], padded[1], mask[0, :21], mask[1] = clip, torch.randn(40), 1, 1
    tokens, real = embeddings(padded, mask)
    lengths = [((length - 4) // 2 + 1 - 3) // 2 + 1 for length in (21, 40)]
    assert real.sum(1).tolist() == lengths and tokens.shape == (2, lengths[1], 8)
    alone, none = embeddings(clip)
    assert none is None and alone.shape[1] == lengths[0]
    torch.testing.assert_close(tokens[0, : lengths[0]], alone[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_clip_shorter_than_one_window_is_one_token() -> None:
    embeddings = build_encoder()
    assert embeddings.receptive_field == 8
    short = torch.randn(2, 3)
    tokens, real = embeddings(short, torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert tokens.shape == (2, 1, 8) and real.tolist() == [[True], [True]]
    assert torch.equal(embeddings(torch.nn.functional.pad(short[:1], (0, 5)))[0], embeddings(short[:1])[0])


def test_what_is_no_clip() -> None:
    embeddings = build_encoder()
    for wrong in (torch.zeros(8), torch.zeros(2, 0), torch.zeros(1, 2, 8)):
        with pytest.raises(ValueError, match="with at least one sample"):
            embeddings(wrong)
    for mask in ([[1, 0, 1]], [[0, 1, 1]]):
        with pytest.raises(ValueError, match="padding before the end of a clip"):
            embeddings(torch.zeros(1, 3), torch.tensor(mask))
    assert build_length_mask(torch.tensor([0, 2, 5]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]
