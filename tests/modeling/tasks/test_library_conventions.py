"""Conventions of transformers' models that tools rely on, over every class and shape."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.utils import ModelOutput
from transformers.utils.logging import get_logger

from plait import PlaitConfig, PlaitForRetrieval
from plait.modeling import PlaitPreTrainedModel

from ..zoo import APART, CASES, TEXT, build, config_of, inputs_of

MODALITIES = ("text", "image", "audio", "video")
FEATURES = [("apart", "text"), ("apart", "image"), ("documents", "text"), ("documents", "document")]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


def test_the_encoder_of_a_modality_is_its_tower_or_the_model(model: PlaitPreTrainedModel) -> None:
    base: Any = model.base_model
    towers = dict(base.towers.items())
    for modality in MODALITIES:
        assert model.get_encoder(modality) is towers.get(modality, model)
    assert model.get_encoder() is next(iter(towers.values()), model)
    with pytest.raises(ValueError, match="'smell'"):
        model.get_encoder("smell")


def test_an_absent_attribute_is_absent(case: tuple[str, str], model: PlaitPreTrainedModel) -> None:
    for each in (model, model.base_model):
        has_property = isinstance(getattr(type(each), "num_image_tokens", None), property)
        assert hasattr(each, "num_image_tokens") == (has_property and "image" in model.config.encoders)


def test_setting_the_attention_warns_of_nothing(model: PlaitPreTrainedModel) -> None:
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = get_logger("transformers.modeling_utils")
    logger.addHandler(handler)
    try:
        for implementation in ("eager", "sdpa", {"": "eager", "text_config": "sdpa"}):
            model.set_attn_implementation(implementation)
            for field in model.config.sub_configs:
                wanted = implementation
                if isinstance(implementation, dict):
                    wanted = implementation.get(field, "sdpa")
                assert getattr(model.config, field)._attn_implementation == wanted
    finally:
        logger.removeHandler(handler)
    assert messages == []


@pytest.mark.parametrize("wrong", ["nonsense", {"text_config": "nonsense"}, {"": "nonsense", "text_config": "eager"}])
def test_a_refused_attention_changes_nothing(wrong: str | dict[str, str]) -> None:
    model = build("PlaitForClassification", "early")
    with pytest.raises(ValueError, match="nonsense"):
        model.set_attn_implementation(wrong)
    assert {getattr(model.config, field)._attn_implementation for field in model.config.sub_configs} == {"sdpa"}


@pytest.mark.parametrize(("shape", "side"), FEATURES)
def test_features_are_asked_for_as_in_clip(shape: str, side: str) -> None:
    model, inputs = build("PlaitForRetrieval", shape), inputs_of(shape)
    names = ("pixel_values",) if side == "image" else ("input_ids", "attention_mask")
    own = {name: inputs[name] for name in names}
    features = getattr(model, f"get_{side}_features")
    expected = features(**own)
    assert isinstance(expected, ModelOutput) and expected.pooler_output.shape == (3, 24)
    outputs = [features(*own.values()), features(**own, return_dict=False), features(*own.values(), return_dict=False)]
    model.config.return_dict = False
    outputs += [features(**own), features(**own, return_dict=True)]
    assert [type(output) is tuple for output in outputs] == [False, True, True, True, False]
    for output in outputs:
        found = output[2] if isinstance(output, tuple) else output.pooler_output
        torch.testing.assert_close(found, expected.pooler_output, atol=0, rtol=0)
    recorded = features(**own, return_dict=True, output_hidden_states=True, output_attentions=True)
    assert len(recorded.hidden_states) == 3 and len(recorded.attentions) == 2
    with pytest.raises(TypeError, match="colour"):
        features(**own, colour=1)


@pytest.mark.parametrize("shape", APART)
@pytest.mark.parametrize("training", [False, True])
def test_retrieval_returns_its_similarities_with_the_loss(shape: str, training: bool) -> None:
    model, inputs = build("PlaitForRetrieval", shape), inputs_of(shape)
    expected = model(**inputs)
    outputs = model.train(training)(**inputs, return_loss=True)
    assert outputs.loss.requires_grad and len(outputs.to_tuple()) == len(expected.to_tuple()) + 1
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value)


def test_retrieval_trains_on_a_batch_without_one_side() -> None:
    model: Any = PlaitForRetrieval(
        PlaitConfig(text_config={**TEXT, "pooling": "mean"}, vision_config=config_of("image").vision_config,
                    retrieval_config={"projection_dim": 24})
    )  # fmt: skip
    inputs: dict[str, Tensor] = inputs_of("text")
    assert torch.isfinite(model.train()(**inputs).loss)
