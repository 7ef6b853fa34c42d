"""The score of every kind of target is that of the model's own outputs."""

from typing import Any

import pytest
import torch

from plait import PlaitConfig, PlaitForClassification
from plait.modeling.attribution.target import Target, score

from ...compatibility.tiny_models import PATCHES, build, draw, fill_with_numbers, list_tiny_models


def load(name: str) -> tuple[Any, dict[str, Any]]:
    tiny = list_tiny_models()[name]
    unused = ("labels", "start_positions", "end_positions")
    return build(tiny), {key: value for key, value in tiny.inputs.items() if key not in unused}


def test_classes() -> None:
    model, inputs = load("classification_text_image")
    expected = model(**inputs).logits.log_softmax(dim=-1)[[0, 1], [2, 0]]
    torch.testing.assert_close(score(model, inputs, Target("class", torch.tensor([2, 0]))), expected)


def test_several_classes_are_explained_one_by_one() -> None:
    model, inputs = load("classification_text_video")
    assert model.config.problem_type == "multi_label_classification"
    expected = model(**inputs).logits.sigmoid().log()[[0, 1], [1, 1]]
    torch.testing.assert_close(score(model, inputs, Target("class", torch.tensor([1, 1]))), expected)


def test_values_are_in_the_unit_of_the_targets() -> None:
    config = PlaitConfig(vision_config=PATCHES, problem_type="regression", num_labels=2)
    model = fill_with_numbers(PlaitForClassification(config))
    model.set_target_scale([10.0, 20.0], [2.0, 3.0])
    found = score(model, {"pixel_values": draw(2, 3, 8, 8)}, Target("value", torch.tensor([1, 0])))
    torch.testing.assert_close(found, model(pixel_values=draw(2, 3, 8, 8)).logits[[0, 1], [1, 0]])
    assert found[0] > 15


@pytest.mark.parametrize("name", ["masked_lm", "causal_lm", "generation_text_image"])
def test_tokens_are_added_up(name: str) -> None:
    model, inputs = load(name)
    length = model(**inputs).logits.shape[1]
    values = torch.full((2, length), -100)
    values[0, -2:], values[1, -1] = torch.tensor([5, 6]), 7
    likelihoods = model(**inputs).logits.log_softmax(dim=-1)
    expected = torch.stack((likelihoods[0, -2, 5] + likelihoods[0, -1, 6], likelihoods[1, -1, 7]))
    torch.testing.assert_close(score(model, inputs, Target("tokens", values)), expected)


def test_spans() -> None:
    model, inputs = load("question_answering")
    outputs = model(**inputs)
    starts, ends = outputs.start_logits.log_softmax(dim=-1), outputs.end_logits.log_softmax(dim=-1)
    found = score(model, inputs, Target("span", torch.tensor([[1, 3], [0, 2]])))
    torch.testing.assert_close(found, torch.stack((starts[0, 1] + ends[0, 3], starts[1, 0] + ends[1, 2])))


def test_pairs() -> None:
    model, inputs = load("retrieval_documents")
    found = score(model, inputs, Target("pair", torch.empty(2, 0)))
    torch.testing.assert_close(found, model(**inputs).logits.diagonal())
    text = {name: value for name, value in inputs.items() if not name.startswith("document")}
    with pytest.raises(ValueError, match="a pair has two sides, and the inputs hold one"):
        score(model, text, Target("pair", torch.empty(2, 0)))


def test_another_number_of_rows_is_an_error() -> None:
    model, inputs = load("retrieval_documents")
    with pytest.raises(ValueError, match="the target has 3 rows, and the inputs 2"):
        score(model, inputs, Target("pair", torch.empty(3, 0)))


def test_rows_are_selected() -> None:
    target = Target("span", torch.tensor([[1, 2], [3, 4]]))
    assert target.select(torch.tensor([1, 1, 0])).values.tolist() == [[3, 4], [3, 4], [1, 2]]
