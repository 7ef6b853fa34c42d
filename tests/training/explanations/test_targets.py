"""What is explained, by every class."""

from typing import Any

import pytest
import torch

import plait
from plait.modeling.attribution.state import explained
from plait.modeling.attribution.target import score
from plait.training.explanations.encoding import encode_explained_rows
from plait.training.explanations.targets import FoundTargets, find_best_span, find_targets

from .test_explain import build_once, make_processor, make_row


def find(name: str, target: Any = None, **row: Any) -> FoundTargets:
    model, processor = build_once(name), make_processor(name)
    with explained(model):
        encoded = encode_explained_rows(model, processor, [{**make_row(name), **row}] * 2)
        found = find_targets(model, processor, encoded, target)
        assert score(model, found.inputs, found.target).shape == (2,)
        return found


def test_the_predicted_class_scores_highest() -> None:
    name = "classification_text_image"
    best = find(name).target.values[0].item()
    names = build_once(name).config.id2label
    model = build_once(name)
    scores = {}
    for number, label in names.items():
        found = find(name, label)
        assert found.names == [label] * 2 and find(name, number).target.values.tolist() == [number] * 2
        scores[number] = score(model, found.inputs, found.target)[0].item()
    assert max(scores, key=lambda number: scores[number]) == best


def test_each_row_has_its_own_target() -> None:
    labels = list(build_once("classification_image").config.id2label.values())
    assert find("classification_image", [labels[1], None]).names[0] == labels[1]


def test_generated_texts_are_the_likeliest() -> None:
    """What greedy search generates scores higher than another text."""
    name = "generation_image"
    model = build_once(name)
    generated, other = find(name), find(name, "red")
    assert other.names[0].startswith("red") and generated.names[0] != other.names[0]
    first = [find(name, 0), find(name, 1)]
    assert all(int((one.target.values[0] != -100).sum()) == 1 for one in first)
    total = score(model, generated.inputs, generated.target)[0]
    assert total <= score(model, first[0].inputs, first[0].target)[0]


def test_a_continued_prompt() -> None:
    found = find("causal_lm", "red dog")
    assert found.names == ["red dog"] * 2
    ids, values = found.inputs["input_ids"][0], found.target.values[0]
    places = (values != -100).nonzero()[:, 0]
    assert ids[places + 1].tolist() == values[places].tolist()  # each position predicts the next token


def test_masks_are_filled() -> None:
    assert find("masked_lm", "dog").names == ["dog"] * 2
    values = find("masked_lm").target.values
    assert (values != -100).sum(dim=1).tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"row 0 has no \[MASK\] in its text"):
        find("masked_lm", text="the cat")
    with pytest.raises(ValueError, match="is 2 tokens, and a mask stands for one"):
        find("masked_lm", "red dog")


def test_answers() -> None:
    name = "question_answering"
    assert find(name, "a dog").names == ["a dog"] * 2
    assert find(name, (4, 10)).names == ["cat is"] * 2
    assert find(name).names[0] in make_row(name)["context"]
    with pytest.raises(ValueError, match="the answer is not in the context"):
        find(name, "horse")
    with pytest.raises(ValueError, match="none of these characters"):
        find(name, (400, 410))


def test_the_best_span_is_inside_and_in_order() -> None:
    starts, ends = torch.tensor([9.0, 1, 5, 3]), torch.tensor([9.0, 4, 0, 2])
    inside = torch.tensor([False, True, True, True])
    assert find_best_span(starts, ends, inside) == (2, 3)
    assert find_best_span(starts, ends, inside, longest=1) == (1, 1)


def test_errors() -> None:
    with pytest.raises(ValueError, match="for some rows only"):
        find("generation_image", ["red", None])
    with pytest.raises(ValueError, match="target 99: the text of row 0 has tokens 0 to"):
        find("generation_image", 99)
    with pytest.raises(ValueError, match="the score of each row's pair is explained"):
        find("retrieval_documents", "yes")
    with pytest.raises(ValueError, match="target 3 is no output"):
        build_regression_targets(3)


def build_regression_targets(target: Any) -> Any:
    config = plait.PlaitConfig(text_config=make_text_config(), problem_type="regression", num_labels=2)
    model = plait.PlaitForClassification(config)
    processor = make_processor("masked_lm")
    return plait.explain(model, processor, {"text": "a dog"}, target=target)


def make_text_config() -> dict[str, Any]:
    return build_once("masked_lm").config.text_config.to_dict()


def test_outputs_of_a_regressor() -> None:
    assert build_regression_targets(1)[0].target == "output 1"
