"""Learned relative positions on a grid."""

import pytest
import torch

from plait.configuration import PlaitTransformerConfig
from plait.modeling.core.grid import GridPositionBias, check_takes_bias, compute_grid_offsets
from plait.modeling.core.transformer import PlaitTransformer

DECAY = [0.0, 0.5]
LIKE = torch.zeros(())


def build(grid: tuple[int, int] = (3, 4), decay: list[float] | None = None) -> GridPositionBias:
    config = PlaitTransformerConfig(
        hidden_size=16, num_attention_heads=2, relative_grid=list(grid), relative_decay=decay
    )
    bias = GridPositionBias(config)
    bias.init_weights(0.02)
    return bias


def test_the_bias_of_two_patches_is_that_of_their_offset() -> None:
    bias = build()
    torch.nn.init.normal_(bias.weight)
    found = bias(compute_grid_offsets((3, 4), LIKE.device), None, LIKE)
    assert found.shape == (1, 2, 12, 12)
    for query in range(12):
        for key in range(12):
            row, column = query // 4 - key // 4, query % 4 - key % 4
            assert torch.equal(found[0, :, query, key], bias.weight[:, row + 2, column + 3])


@torch.no_grad()
def test_it_starts_at_minus_the_decay_times_the_squared_distance() -> None:
    found = build(decay=DECAY)(compute_grid_offsets((3, 4), LIKE.device), None, LIKE)[0]
    assert not found[0].any()
    assert found[1].diagonal().abs().max() == 0
    down, right = 8 / 3, 2.0  # of a patch, in eighths of the grid
    assert found[1, 0, 4] == pytest.approx(-0.5 * down**2)
    assert found[1, 0, 1] == pytest.approx(-0.5 * right**2)
    assert found[1, 0, 11] == pytest.approx(-0.5 * ((2 * down) ** 2 + (3 * right) ** 2))


@torch.no_grad()
@pytest.mark.parametrize("grid", [(6, 8), (2, 2), (1, 5), (5, 1), (3, 8)])
def test_another_grid_is_interpolated(grid: tuple[int, int]) -> None:
    """An offset keeps its share of the grid: the outermost are the same, and what is linear in it stays linear."""
    bias = build()
    row, column = torch.linspace(-1, 1, 5)[:, None], torch.linspace(-1, 1, 7)
    bias.weight.copy_(torch.stack((3 * row + column, row - 2 * column)))
    found = bias(compute_grid_offsets(grid, LIKE.device), None, LIKE)[0]
    rows, columns = grid
    number = torch.arange(rows * columns)
    down = (number[:, None] // columns - number // columns) / max(rows - 1, 1)
    right = (number[:, None] % columns - number % columns) / max(columns - 1, 1)
    assert torch.allclose(found[0], 3 * down + right, atol=1e-5)
    assert torch.allclose(found[1], down - 2 * right, atol=1e-5)


@torch.no_grad()
def test_its_own_grid_is_not_interpolated() -> None:
    bias = build((4, 4))
    torch.nn.init.normal_(bias.weight)
    offsets = compute_grid_offsets((4, 4), LIKE.device)
    assert torch.equal(bias(offsets, None, LIKE)[0, :, 0, 15], bias.weight[:, 0, 0])


@torch.no_grad()
def test_a_mask_is_added() -> None:
    bias, offsets = build(decay=DECAY), compute_grid_offsets((3, 4), LIKE.device)
    plain, mask = bias(offsets, None, LIKE), torch.rand(5, 1, 12, 12) > 0.5
    for given in (mask, torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float).min)):
        found = bias(offsets, given, LIKE)
        assert found.shape == (5, 2, 12, 12)
        assert torch.equal(found[mask.expand_as(found)], plain.expand_as(found)[mask.expand_as(found)])
        assert found[~mask.expand_as(found)].max() < -1e30


@torch.no_grad()
def test_a_transformer_follows_the_order_of_the_patches_only_by_their_offsets() -> None:
    """Under a symmetric bias, mirroring a grid mirrors what comes out; shifting it changes it."""
    torch.manual_seed(0)
    config = PlaitTransformerConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, relative_grid=[2, 4], relative_decay=[0.1, 1.0]
    )
    config._attn_implementation = "sdpa"
    transformer = PlaitTransformer(config).eval()
    transformer.layers[0].self_attn.position_bias.init_weights(0.02)
    x = torch.randn(1, 8, 16)
    mirrored = x.unflatten(1, (2, 4)).flip(2).flatten(1, 2)
    usual = transformer(x, grid=(2, 4)).last_hidden_state.unflatten(1, (2, 4))
    found = transformer(mirrored, grid=(2, 4)).last_hidden_state.unflatten(1, (2, 4))
    assert torch.allclose(found.flip(2), usual, atol=1e-5)
    rolled = transformer(x.roll(1, dims=1), grid=(2, 4)).last_hidden_state.roll(-1, dims=1).unflatten(1, (2, 4))
    assert (rolled - usual).abs().max() > 1e-3
    config._attn_implementation = "eager"
    eager = transformer(x, grid=(2, 4)).last_hidden_state.unflatten(1, (2, 4))
    assert torch.allclose(eager, usual, atol=1e-5)
    with pytest.raises(ValueError, match=r"8 tokens, but the grid \(2, 3\) has 6"):
        transformer(x, grid=(2, 3))
    with pytest.raises(ValueError, match="need its size: pass grid"):
        transformer(x)


def test_attention_that_takes_no_bias_is_refused() -> None:
    config = PlaitTransformerConfig(hidden_size=16, num_attention_heads=2)
    for implementation in ("sdpa", "eager"):
        config._attn_implementation = implementation
        check_takes_bias(config)
    config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="'flex_attention' cannot add learned relative positions"):
        check_takes_bias(config)
