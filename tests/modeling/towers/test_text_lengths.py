"""How long a text may be: as many tokens as there are positions, whatever padding stands around them."""

import pytest
import torch
from torch import Tensor

from plait import PlaitConfig, PlaitModel
from plait.configuration import PlaitTextConfig

POSITIONS, PAD = 8, 1


def tower_of(position_type: str) -> PlaitModel:
    torch.manual_seed(0)
    size = POSITIONS + PAD + 1 if position_type == "counted" else POSITIONS
    config = PlaitTextConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=size,
        position_type=position_type, pad_token_id=PAD, position_offset=PAD + 1 if position_type == "counted" else 0,
    )  # fmt: skip
    return PlaitModel(PlaitConfig(text_config=config)).eval()


def text_of(length: int, left: int = 0, right: int = 0) -> dict[str, Tensor]:
    ids = torch.cat((torch.full((left,), PAD), torch.arange(length) + 2, torch.full((right,), PAD)))[None]
    return {"input_ids": ids, "attention_mask": ids.ne(PAD).long()}


@torch.no_grad()
@pytest.mark.parametrize("position_type", ["learned", "counted"])
def test_padding_beyond_the_table_of_positions_changes_nothing(position_type: str) -> None:
    tower = tower_of(position_type)
    alone = tower(**text_of(POSITIONS)).last_hidden_state
    for left, right in ((3, 0), (2, 2)):
        padded = tower(**text_of(POSITIONS, left, right)).last_hidden_state[:, left : left + POSITIONS]
        torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("left", [0, 2])
@pytest.mark.parametrize("position_type", ["learned", "counted"])
def test_a_token_beyond_the_table_of_positions_is_an_error(position_type: str, left: int) -> None:
    with pytest.raises(ValueError, match=rf"but the text tower has {POSITIONS} positions"):
        tower_of(position_type)(**text_of(POSITIONS + 1, left))
