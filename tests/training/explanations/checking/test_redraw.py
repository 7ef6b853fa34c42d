"""Weights redrawn from the output down, and given back."""

import pytest
import torch

from plait import PlaitForClassification
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.training.explanations.checking.redraw import redraw_weights

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def build_model() -> PlaitForClassification:
    torch.manual_seed(0)
    text = PlaitTextConfig(vocab_size=20, max_position_embeddings=8, **TINY)
    image = PlaitVisionConfig(image_size=8, patch_size=4, **TINY)
    return PlaitForClassification.compose(
        text=text, image=image, fusion="early", fusion_config=TINY, labels=["a", "b"], verbose=False
    )


def copy_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def list_changed(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def test_parts_are_redrawn_from_the_output_down_and_given_back() -> None:
    model = build_model()
    before = copy_weights(model)
    parts, changed = [], [set()]
    for part in redraw_weights(model):
        parts.append(part)
        changed.append(list_changed(model, before))
        for name, value in model.named_parameters():  # every tensor keeps its values
            assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
    assert parts == ["head", "fusion", "image", "text"]
    assert all(one < other for one, other in zip(changed, changed[1:], strict=False))
    assert all(name.startswith("classifier") for name in changed[1])
    assert any("towers.text" in name for name in changed[-1])
    assert not list_changed(model, before)


def test_weights_are_given_back_after_an_error() -> None:
    model = build_model()
    before = copy_weights(model)
    stages = redraw_weights(model)
    next(stages)
    assert list_changed(model, before)
    with pytest.raises(ZeroDivisionError):
        stages.throw(ZeroDivisionError)
    assert not list_changed(model, before)
