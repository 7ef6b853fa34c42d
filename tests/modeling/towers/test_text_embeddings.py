"""Positions, segments and scale of a text's embeddings, summed by hand."""

from typing import Any

import pytest
import torch

from plait.configuration import PlaitTextConfig
from plait.modeling.towers.text import TextEmbeddings, compute_token_mask

CORE = {"hidden_size": 4, "num_attention_heads": 1, "vocab_size": 9}
IDS = torch.tensor([[0, 3, 0, 5], [7, 8, 3, 0]])


def build(**fields: Any) -> TextEmbeddings:
    torch.manual_seed(0)
    return TextEmbeddings(PlaitTextConfig(**CORE, **{"max_position_embeddings": 8, **fields}))


def test_positions_are_places_in_the_row() -> None:
    plain = build(pad_token_id=0, position_offset=0)
    assert plain.compute_positions(IDS[..., None], IDS, 0).tolist() == [[0, 1, 2, 3]]
    assert plain.compute_positions(IDS[..., None], IDS, 4).tolist() == [[4, 5, 6, 7]]
    moved = build(position_offset=2)
    assert moved.compute_positions(IDS[..., None], None, 1).tolist() == [[3, 4, 5, 6]] and moved.available == 6


def test_positions_may_be_counted_over_real_tokens() -> None:
    """Padding has the position of the padding token, and without ids, or without such a token, places count."""
    counted = build(position_type="counted", pad_token_id=0, position_offset=1)
    assert counted.compute_positions(IDS[..., None], IDS, 0).tolist() == [[0, 1, 0, 2], [1, 2, 3, 0]]
    assert counted.compute_positions(IDS[..., None], IDS, 2).tolist() == [[0, 3, 0, 4], [3, 4, 5, 0]]
    assert counted.compute_positions(IDS[..., None], None, 1).tolist() == [[2, 3, 4, 5]]
    counted.pad_token_id = None
    assert counted.compute_positions(IDS[..., None], IDS, 1).tolist() == [[2, 3, 4, 5]]
    counted.pad_token_id = 3
    assert counted.compute_positions(IDS[..., None], IDS, 0).tolist() == [[4, 3, 5, 6], [4, 5, 3, 6]]


@pytest.mark.parametrize("offset", [0, 2])
@torch.no_grad()
def test_an_embedding_is_the_sum_of_its_parts(offset: int) -> None:
    embeddings = build(type_vocab_size=2, position_offset=offset, embedding_scale=3.0)
    types = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]])
    tokens, places, kinds = embeddings.token_embedding, embeddings.position_embedding, embeddings.type_embedding
    expected = 3 * tokens(IDS) + kinds(types) + places(torch.arange(4) + offset)
    torch.testing.assert_close(embeddings(IDS, types), expected)
    first = 3 * tokens(IDS) + kinds(torch.zeros_like(IDS)) + places(torch.arange(4) + offset + 1)
    torch.testing.assert_close(embeddings(IDS, past=1), first)
    torch.testing.assert_close(embeddings(inputs_embeds=tokens(IDS), past=1), first)
    given = torch.tensor([[3, 0, 1, 2]])
    torch.testing.assert_close(embeddings(IDS, types, given), 3 * tokens(IDS) + kinds(types) + places(given + offset))
    bare = build(position_type="none")
    assert bare.position_embedding is None and bare.type_embedding is None
    assert torch.equal(bare(IDS), bare.token_embedding(IDS))


def test_the_last_position_can_be_used_and_the_next_cannot() -> None:
    embeddings = build(position_offset=2)
    assert embeddings(IDS, past=2).shape == (2, 4, 4)
    with pytest.raises(ValueError, match="7 tokens, but the text tower has 6 positions"):
        embeddings(IDS, past=3)
    embeddings.check(torch.tensor([[5]]), 7)
    embeddings.check(torch.tensor([[6]]), 6)
    with pytest.raises(ValueError, match="7 tokens, but the text tower has 6 positions"):
        embeddings.check(torch.tensor([[6]]), 7)
    counted = build(position_type="counted", pad_token_id=1, position_offset=2)
    counted.check(torch.tensor([[7]]), 9)
    with pytest.raises(ValueError, match="7 tokens"):
        counted.check(torch.tensor([[8]]), 9)


def test_real_tokens_are_those_of_the_mask() -> None:
    x = torch.zeros(2, 3, 4)
    mask = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 1]])
    assert compute_token_mask(x, mask).tolist() == [[False, True, True], [True, False, True]]
    for other in (None, mask[:, None, None], {"full_attention": mask}):
        assert compute_token_mask(x, other).tolist() == [[True] * 3] * 2


def test_given_positions_of_a_text_longer_than_the_table_are_checked() -> None:
    ids, embeddings = torch.ones(1, 9, dtype=torch.long), build()
    assert embeddings(ids, position_ids=torch.arange(9)[None] % 8).shape == (1, 9, 4)
    with pytest.raises(ValueError, match="9 tokens, but the text tower has 8 positions"):
        embeddings(ids, position_ids=torch.arange(9)[None])
