"""The denoiser's parts against their equations: times, positions, patches, the condition, what it starts as."""

import math

import pytest
import torch

from plait.configuration import PlaitDenoiserConfig
from plait.modeling.diffusion.denoiser import (
    PlaitDenoiser,
    TimeEmbedding,
    build_grid_sinusoids,
    from_patches,
    init_linear,
    to_patches,
)


@pytest.fixture
def denoiser() -> PlaitDenoiser:
    torch.manual_seed(0)
    config = PlaitDenoiserConfig(
        image_size=[8, 12], patch_size=4, num_channels=2, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        context_size=6,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    model = PlaitDenoiser(config)
    for module in model.modules():
        if hasattr(module, "init_weights"):
            module.init_weights(0.02)
    return model.eval()


def test_times_are_embedded_by_their_log_odds() -> None:
    torch.manual_seed(0)
    embedding = TimeEmbedding(6)
    times = torch.tensor([0.0, 1e-4, 0.3, 0.9999, 1.0], dtype=torch.float64)
    waves = []
    for time in times.clamp(1e-4, 0.9999).tolist():
        place = math.log(time / (1 - time)) + 10
        angles = [10_000 ** (-i / 64) * 50 * place for i in range(64)]
        waves.append([math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles])
    expected = embedding.down_proj(torch.nn.functional.silu(embedding.up_proj(torch.tensor(waves))))
    torch.testing.assert_close(embedding(times), expected, rtol=0, atol=1e-5)
    assert embedding(times.half()).dtype == torch.float32


def test_patches_are_cut_row_by_row_and_joined_again() -> None:
    images = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    patches = to_patches(images, 2)
    assert patches.shape == (2, 6, 12)
    for number in range(6):
        row, column = number // 3 * 2, number % 3 * 2
        assert torch.equal(patches[:, number], images[:, :, row : row + 2, column : column + 2].flatten(1))
    assert torch.equal(from_patches(patches, (2, 3), 2), images)


@pytest.mark.parametrize(("rows", "columns", "width"), [(2, 3, 8), (3, 1, 10), (2, 2, 3)])
def test_positions_are_waves_of_row_and_column(rows: int, columns: int, width: int) -> None:
    quarter = width // 4
    found = build_grid_sinusoids(rows, columns, width)
    assert found.shape == (rows * columns, width)
    for number in range(rows * columns):
        expected = []
        for place, count in ((number // columns, rows), (number % columns, columns)):
            angles = [place * 12 / count * 16 ** (-i / quarter) for i in range(quarter)]
            expected += [math.sin(angle) / 2 for angle in angles] + [math.cos(angle) / 2 for angle in angles]
        expected += [0.0] * (width - len(expected))
        assert found[number].tolist() == pytest.approx(expected, abs=1e-6)


def test_it_starts_by_adding_nothing(denoiser: PlaitDenoiser) -> None:
    """Neither the condition nor the output; what a layer adds is smaller by the square root of their number."""
    assert not denoiser.output_proj.weight.any() and not denoiser.output_proj.bias.any()
    crossing = [layer for layer in denoiser.transformer.layers if layer.crosses]
    assert len(crossing) == 2
    assert all(not layer.cross_attn.o_proj.weight.any() for layer in crossing)
    for layer in denoiser.transformer.layers:
        for linear, gain in ((layer.self_attn.o_proj, 0.5), (layer.mlp.down_proj, 0.5), (layer.mlp.up_proj, 1.0),
                             (layer.self_attn.q_proj, 1.0)):  # fmt: skip
            bound = gain * linear.in_features**-0.5
            assert 0.8 * bound < linear.weight.abs().max() <= bound
    table = denoiser.position_embedding.weight
    assert torch.equal(table, build_grid_sinusoids(2, 3, 16))
    noisy, context = torch.randn(3, 2, 8, 12), torch.randn(3, 5, 6)
    with torch.no_grad():
        found = denoiser(noisy, torch.rand(3), context, torch.ones(3, 5, dtype=torch.bool))
    assert found.shape == noisy.shape and not found.any()


def test_linear_layers_start_uniform_within_their_bound() -> None:
    linear = torch.nn.Linear(25, 400)
    init_linear(linear)
    assert 0.199 < linear.weight.abs().max() <= 0.2 and not linear.bias.any()
    assert linear.weight.mean().abs() < 0.01
    init_linear(torch.nn.Linear(25, 4, bias=False))
    init_linear(linear, 0.5)
    assert 0.099 < linear.weight.abs().max() <= 0.1


@torch.no_grad()
def test_the_condition_is_the_time_and_the_mean_of_the_real_tokens(denoiser: PlaitDenoiser) -> None:
    times, context = torch.tensor([0.2, 0.7]), torch.randn(2, 4, 6)
    mask = torch.tensor([[True, True, False, False], [True, False, True, True]])
    pooled = torch.stack([row[real].mean(0) for row, real in zip(context, mask, strict=True)])
    expected = torch.nn.functional.silu(
        denoiser.time_embedding(times) + denoiser.pooled_proj(denoiser.context_norm(pooled))
    )
    torch.testing.assert_close(denoiser.compute_condition(times, context, mask), expected)
