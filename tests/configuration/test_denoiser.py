"""The config of the denoiser, and the switches of the core that only it may use."""

import json
from typing import Any

import pytest

from plait.configuration import PlaitConfig, PlaitDecoderConfig, PlaitDenoiserConfig, PlaitTextConfig, PlaitVisionConfig

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3}


def reload(config: PlaitDenoiserConfig) -> PlaitDenoiserConfig:
    return PlaitDenoiserConfig.from_dict(json.loads(config.to_json_string(use_diff=True)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"adaptive_gate": None},
        {"adaptive_gate": 0},
        {"adaptive_norm": False},
        {"relative_positions": False},
        {"relative_decay": [1.0, 0.5, 0.25, 0.0]},
        {"cross_attention_layers": [1]},
        {"condition_dropout": {"text": 0.2}},
        {"image_size": [16, 32], "num_attention_heads": 8},
    ],
    ids=str,
)
def test_every_field_survives_its_file(fields: dict[str, Any]) -> None:
    config = PlaitDenoiserConfig(**SIZES, **fields)
    again = reload(config)
    for name in PlaitDenoiserConfig.__dataclass_fields__:
        if name != "transformers_version":
            assert getattr(again, name) == getattr(config, name), name


def test_defaults_follow_the_sizes() -> None:
    config = PlaitDenoiserConfig(**SIZES, image_size=[16, 32], patch_size=4, num_attention_heads=8)
    assert config.grid == (4, 8) and config.relative_grid == [4, 8]
    assert config.relative_decay == [0.0, 0.05, 0.3, 1.0] * 2
    assert config.cross_attention_layers == [0, 2] and config.condition_size == 32


@pytest.mark.parametrize(
    ("chance", "hides"), [(0.0, False), (0.1, True), ({"text": 0.0}, False), ({"text": 0.3}, True)]
)
def test_hidden_conditions_are_known(chance: Any, hides: bool) -> None:
    assert PlaitDenoiserConfig(**SIZES, condition_dropout=chance).hides_conditions is hides


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 60}, "image_size 60 is no multiple of patch_size 8"),
        ({"image_size": [64, 60]}, "no multiple"),
        ({"image_size": [64]}, "height, width"),
        ({"image_size": 0}, "no multiple"),
        ({"patch_size": 0}, "patch_size 0"),
        ({"condition_dropout": 1.5}, "condition_dropout is 1.5"),
        ({"condition_dropout": {"text": -0.1}}, "condition_dropout"),
        ({"time_std": 0}, "time_std is 0"),
        ({"relative_decay": [1.0]}, "relative_decay has 1 numbers for 4 heads"),
    ],
    ids=str,
)
def test_wrong_values_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        PlaitDenoiserConfig(**SIZES, **fields)


@pytest.mark.parametrize("kind", [PlaitTextConfig, PlaitVisionConfig, PlaitDecoderConfig])
@pytest.mark.parametrize("fields", [{"adaptive_norm": True}, {"relative_grid": [2, 2]}], ids=str)
def test_a_tower_refuses_what_it_cannot_give(kind: type, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        kind(**fields)


def test_a_model_without_a_denoiser_saves_none() -> None:
    assert "denoiser_config" not in PlaitConfig(text_config=PlaitTextConfig()).to_diff_dict()
