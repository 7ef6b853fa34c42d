"""A decoder's config read as that of a text tower."""

from plait.configuration import PlaitDecoderConfig, PlaitTextConfig
from plait.modeling.composition.components import as_tower_config


def test_a_tower_made_of_a_decoder_has_no_cross_attention() -> None:
    decoder = PlaitDecoderConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=3, cross_attention=True)
    tower = as_tower_config(decoder)
    assert type(tower) is PlaitTextConfig and not tower.cross_attention
    assert as_tower_config(tower) is tower
    assert (tower.hidden_size, tower.num_hidden_layers) == (16, 3)
