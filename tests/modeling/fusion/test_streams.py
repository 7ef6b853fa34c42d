"""Streams one by one: what is cleaned, joined, dropped and counted; images among a text's tokens."""

import pytest
import torch
from torch import nn

from plait.configuration import PlaitFusionConfig
from plait.modeling.fusion.base import (
    ModalityDropout,
    Stream,
    add_modality_types,
    check_modality_count,
    compute_token_positions,
    concatenate_streams,
    insert_missing_token,
    require_cross_attention,
)
from plait.modeling.fusion.inline import insert_image_tokens

MASK = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])


def draw(length: int = 3, rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, length, 2, generator=torch.Generator().manual_seed(length))


def test_absent_tokens_are_zero_whatever_they_hold() -> None:
    tokens = draw().masked_fill(~MASK[..., None], torch.nan).requires_grad_()
    stream = Stream(tokens, MASK)
    assert stream.present.tolist() == [True, False, True]
    clean = stream.clean()
    assert torch.equal(clean.mask, MASK) and torch.equal(clean.tokens[MASK], tokens[MASK])
    assert not clean.tokens[~MASK].any()
    clean.tokens.sum().backward()
    assert torch.equal(tokens.grad, MASK[..., None].expand(3, 3, 2).float())
    rows = torch.tensor([True, True, False])
    left = stream.clean(rows)
    assert left.mask.tolist() == [[True, False, True], [False] * 3, [False] * 3] and not left.tokens[2].any()


def test_streams_are_joined_in_their_order() -> None:
    first, second = Stream(draw(), MASK), Stream(draw(2), ~MASK[:, :2])
    joined = concatenate_streams([first, second])
    assert torch.equal(joined.tokens, torch.cat((first.tokens, second.tokens), 1))
    assert torch.equal(joined.mask, torch.cat((first.mask, second.mask), 1))
    types = {"text": torch.tensor([[[1.0, 2.0]]]), "image": torch.tensor([[[5.0, 7.0]]])}

    class Type(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, batch: int) -> torch.Tensor:
            return types[self.name].expand(batch, 1, 2)

    found = add_modality_types({"image": first, "text": second}, nn.ModuleDict({name: Type(name) for name in types}))
    for stream, given, name in zip(found, (first, second), ("image", "text"), strict=True):
        assert torch.equal(stream.tokens, given.tokens + types[name]) and stream.mask is given.mask


def test_a_row_without_tokens_gets_the_missing_one_alone() -> None:
    missing = torch.full((3, 1, 2), 9.0)
    found = insert_missing_token(Stream(draw(), MASK), missing)
    assert found.mask.tolist() == [MASK[0].tolist(), [True, False, False], MASK[2].tolist()]
    assert torch.equal(found.tokens[[0, 2]], draw()[[0, 2]])
    assert found.tokens[1].tolist() == [[9.0, 9.0], *draw()[1, 1:].tolist()]
    empty = insert_missing_token(Stream(draw(0), MASK[:, :0]), missing)
    assert empty.mask.tolist() == [[True]] * 3 and torch.equal(empty.tokens, missing)


def test_positions_count_real_tokens() -> None:
    assert compute_token_positions(MASK).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("p", [0.0, 0.3, 0.999, 1.0])
def test_a_modality_is_dropped_as_often_as_it_says_and_never_the_last(p: float) -> None:
    torch.manual_seed(0)
    dropout = ModalityDropout(p)
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]]).repeat(4000, 1)
    kept = dropout(present)
    assert kept.any(1).all() and not (kept & ~present).any()
    assert kept[2::3].equal(present[2::3])
    share = kept[0::3].float().mean().item()
    expected = (1 - p) + p**3 / 3  # one of the three survives where all would go
    assert share == pytest.approx(expected, abs=0.02)
    assert dropout.eval()(present) is present
    if p == 0:
        assert dropout.train()(present) is present


def test_a_draw_at_the_probability_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are from 0 on and below 1, so that the chance of a smaller one is exactly p."""
    monkeypatch.setattr(torch, "rand", lambda shape, device: torch.tensor([[0.25, 0.2, 0.9], [0.1, 0.2, 0.2]]))
    assert ModalityDropout(0.25)(torch.ones(2, 3, dtype=torch.bool)).tolist() == [
        [True, False, True],
        [False, True, True],
    ]


def test_configs_that_do_not_fit_a_strategy() -> None:
    config = PlaitFusionConfig(hidden_size=16, num_attention_heads=2, strategy="late_mean")
    check_modality_count(config, ("text", "image"))
    with pytest.raises(ValueError, match="late_mean needs two modalities or more, not text alone"):
        check_modality_count(config, ("text",))
    for crosses in (True, False):
        config.cross_attention = crosses
        if crosses:
            assert require_cross_attention(config) is config
            continue
        with pytest.raises(ValueError, match="late_mean needs a config with cross_attention=True"):
            require_cross_attention(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_stand_in_the_places_of_a_row_in_their_order(dtype: torch.dtype) -> None:
    """Two images of two tokens a row; row 1 has the second alone, row 2 none."""
    images = draw(4)
    mask = torch.tensor([[True] * 4, [False, False, True, True], [False] * 4])
    places = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0], [0] * 6], dtype=torch.bool)
    text = draw(6).to(dtype)
    found = insert_image_tokens(text, places, Stream(images, mask), 2)
    assert found.embeds.dtype == dtype and torch.equal(found.embeds[~places], text[~places])
    assert torch.equal(found.embeds[0, places[0]], images[0].to(dtype))
    assert torch.equal(found.embeds[1, places[1]], images[1, 2:].to(dtype))
    assert found.blocks.tolist() == [[0, -1, 0, 1, -1, 1], [-1, 0, 0, -1, -1, -1], [-1] * 6]
    wrong = places.clone()
    wrong[1, 5] = True
    with pytest.raises(ValueError, match=r"row 1 has 3 image tokens in its text, but its images have 2 \(2 for each"):
        insert_image_tokens(text, wrong, Stream(images, mask), 2)


def test_tokens_of_many_images_keep_their_order() -> None:
    mask = torch.rand(2, 96, generator=torch.Generator().manual_seed(0)) > 0.5
    images = torch.arange(192.0).view(2, 96, 1)
    longest = int(mask.sum(1).max())
    places = torch.arange(longest) < mask.sum(1, keepdim=True)
    found = insert_image_tokens(torch.zeros(2, longest, 1), places, Stream(images, mask), 96)
    assert found.embeds[places].flatten().tolist() == images[mask].flatten().tolist()
    assert found.blocks[places].tolist() == [n for row in mask for n in range(int(row.sum()))]
