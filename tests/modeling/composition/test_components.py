"""Parts taken out of a ready plait model."""

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, RegNetConfig

from plait import PlaitConfig, PlaitForCausalLM, PlaitModel
from plait.configuration import PlaitDecoderConfig, PlaitTextConfig, PlaitVideoConfig, PlaitVisionConfig
from plait.modeling.checkpoints.component import READY_MODEL, Component
from plait.modeling.composition.components import (
    as_tower_config,
    as_video_component,
    build_component,
    build_plait_component,
    find_component_config,
    select_pooler,
    without_unused_modules,
)

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


def test_a_component_is_used_as_it_is_and_a_config_is_fresh() -> None:
    given = Component(PlaitTextConfig(**CORE), {}, {}, "somewhere")
    assert build_component("text", given, {}) is given
    own = PlaitTextConfig(**CORE)
    fresh = build_component("text", own, {})
    assert fresh.config is own and (fresh.weights, fresh.heads, fresh.origin) == ({}, {}, "fresh")
    whole = PlaitConfig(text_config=CORE)
    assert build_component("text", whole, {}).config is whole.text_config
    foreign = build_component("text", BertConfig(**CORE, intermediate_size=32), {})
    assert isinstance(foreign.config, PlaitTextConfig) and foreign.config.family == "bert"
    unknown = RegNetConfig(hidden_sizes=[8, 8], depths=[1, 1])
    assert build_component("image", unknown, {}).config is unknown


def test_a_ready_model_brings_its_weights_and_its_name() -> None:
    model = BertModel(BertConfig(**CORE, intermediate_size=32)).eval()
    for name, origin in (("", READY_MODEL), ("some/model", "some/model")):
        model.name_or_path = name
        found = build_component("text", model, {})
        assert found.origin == origin and isinstance(found.config, PlaitTextConfig)
        table = found.weights["embeddings.token_embedding.weight"]
        assert torch.equal(table, model.embeddings.word_embeddings.weight)
        assert table.data_ptr() != model.embeddings.word_embeddings.weight.data_ptr()
    plait_model = PlaitModel(PlaitConfig(text_config=CORE))
    assert build_component("text", plait_model, {}).weights.keys() == plait_model.towers["text"].state_dict().keys()


def test_an_image_tower_becomes_one_of_frames() -> None:
    image = PlaitVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    found = as_video_component(image, {"num_frames": 3}, {})
    assert isinstance(found.config, PlaitVideoConfig) and found.config.num_frames == 3
    assert found.config.image_config.hidden_size == 16 and found.config.image_config.pooling == "none"
    ready = as_video_component(PlaitModel(PlaitConfig(vision_config=image)), {}, {})
    assert ready.heads == {} and ready.weights and all(name.startswith("frames.") for name in ready.weights)
    assert as_video_component(None, {}, {}) is None and as_video_component(found.config, {}, {}) is found.config
    with pytest.raises(ValueError, match="is for an image tower that reads frames"):
        as_video_component(found.config, {"num_frames": 3}, {})


def test_what_a_plain_tower_does_not_use_is_left_out() -> None:
    config = PlaitVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mask_token=True,
                               pooling="first", pooler_size=16, pooler_act="tanh", packing=False)  # fmt: skip
    weights = {
        name: torch.ones(1) for name in ("pooler.dense.weight", "embeddings.mask_token.weight", "other.pooler.x")
    }
    given = Component(config, weights, {}, "x")
    found = without_unused_modules(given, "image")
    assert list(found.weights) == ["other.pooler.x"] and found.config is not config
    own: Any = found.config
    assert (own.pooling, own.pooler_size, own.pooler_act, own.mask_token) == ("none", None, None, False)
    assert own.packing and not own.pooler_norm and config.pooling == "first"
    assert select_pooler(given, "image", pooled=True) is given
    assert select_pooler(given, "image", pooled=False).config.pooling == "none"
