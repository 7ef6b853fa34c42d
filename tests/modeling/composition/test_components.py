"""Parts taken out of a ready plait model."""

from typing import Any

import pytest
import torch

from plait import PlaitConfig, PlaitForCausalLM, PlaitModel
from plait.configuration import PlaitDecoderConfig, PlaitTextConfig
from plait.modeling.checkpoints.component import READY_MODEL
from plait.modeling.composition.components import as_tower_config, build_plait_component, find_component_config

CORE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def test_a_decoder_brings_the_config_of_its_model() -> None:
    """Its special tokens stand there; a model that does not generate has neither heads nor generation settings."""
    config = PlaitConfig(text_config=CORE, decoder_config={**CORE, "cross_attention": True}, **TOKENS)
    model = PlaitModel(config)
    component = build_plait_component("decoder", model)
    assert component.config is config.decoder_config and component.source_config is config
    assert component.heads == {} and component.generation is None and component.origin == READY_MODEL
    assert component.weights.keys() == model.decoder.state_dict().keys()


def test_a_decoder_that_generates_brings_its_head_and_settings() -> None:
    model = PlaitForCausalLM(PlaitConfig(decoder_config={**CORE, "is_causal": True}, **TOKENS))
    model.config._name_or_path = model.name_or_path = "some/model"
    component = build_plait_component("decoder", model)
    assert component.source_config is model.config and component.generation is model.generation_config
    assert {name.partition(".")[0] for name in component.heads} == {"lm_head"}
    assert component.origin == "some/model"


def test_a_decoder_may_become_a_causal_text_tower() -> None:
    model = PlaitForCausalLM(PlaitConfig(decoder_config={**CORE, "is_causal": True}, **TOKENS))
    component = build_plait_component("text", model)
    assert isinstance(component.config, PlaitTextConfig) and component.config.is_causal
    assert (component.config.hidden_size, component.config.cross_attention) == (16, False)
    assert component.source_config is None and component.heads == {} and component.generation is None
    name, weight = next(iter(component.weights.items()))
    assert torch.equal(weight, model.model.decoder.state_dict()[name])


def test_another_tower_stays_as_it_is() -> None:
    config = PlaitConfig(vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2})
    assert as_tower_config(config.vision_config) is config.vision_config


def test_a_part_that_is_not_there_is_named() -> None:
    text = PlaitConfig(text_config=CORE)
    assert find_component_config("decoder", text) is text.text_config
    decoder = PlaitConfig(decoder_config=CORE)
    assert isinstance(find_component_config("text", decoder), PlaitDecoderConfig)
    with pytest.raises(ValueError, match="the plait model has no image tower; it has text"):
        find_component_config("image", text)
    with pytest.raises(ValueError, match="the plait model has no image tower; it has a decoder"):
        find_component_config("image", decoder)
