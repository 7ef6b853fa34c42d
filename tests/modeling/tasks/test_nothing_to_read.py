"""A row with nothing to read is an error in every class and shape: no answer is computed from nothing."""

import pytest
import torch
from torch import Tensor

from plait import PlaitForClassification, PlaitForRetrieval
from plait.modeling import PlaitPreTrainedModel

from ..zoo import APART, CASES, CONTEXT_SHAPES, GENERATING, build, inputs_of, labels_of

PROBLEM = "row 1 of the batch has no modality at all"
MASKS = ("attention_mask", "document_attention_mask")


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


def without_row_1(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs, of whose row 1 nothing is present."""
    found = {name: value.clone() for name, value in inputs.items()}
    for name in MASKS:
        if name in found:
            found[name][1] = 0
    if "pixel_values" in found:
        found["image_present"] = torch.tensor([[True], [False], [True]])
    return found


@pytest.mark.parametrize("labelled", [False, True])
def test_a_row_without_any_input_is_an_error_in_every_class(
    case: tuple[str, str], model: PlaitPreTrainedModel, labelled: bool
) -> None:
    inputs = without_row_1(inputs_of(case[1]))
    options = labels_of(case[0], inputs_of(case[1])) if labelled else {}
    if labelled and case[1] in APART:
        options = {"return_loss": True}
    with pytest.raises(ValueError, match=PROBLEM):
        model(**inputs, **options)


@pytest.mark.parametrize("dropped", ["text", "image"])
def test_a_batch_without_any_present_row_is_an_error(dropped: str) -> None:
    inputs = inputs_of(dropped)
    if dropped == "text":
        inputs["attention_mask"] = torch.zeros_like(inputs["attention_mask"])
    else:
        inputs["image_present"] = torch.zeros(3, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"row 0, 1, 2 of the batch has no modality at all"):
        build("PlaitForClassification", dropped)(**inputs)


@pytest.mark.parametrize(("class_name", "shape"), [(name, shape) for name, row in GENERATING.items() for shape in row])
def test_nothing_is_generated_for_a_row_without_any_input(class_name: str, shape: str) -> None:
    inputs = without_row_1(inputs_of(shape))
    with pytest.raises(ValueError, match=PROBLEM):
        build(class_name, shape).generate(**inputs, max_new_tokens=2)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("shape", CONTEXT_SHAPES)
def test_a_context_with_nothing_in_a_row_is_an_error(shape: str) -> None:
    model = build("PlaitForConditionalGeneration", shape)
    inputs = inputs_of(shape)
    text = inputs.pop("decoder_input_ids")
    context = model.model.encode_context(**inputs)
    context.mask = context.mask.clone()
    context.mask[1] = 0
    with pytest.raises(ValueError, match=PROBLEM):
        model(encoder_outputs=context, decoder_input_ids=text)


@pytest.mark.parametrize("shape", ["text", "image"])
def test_cached_outputs_of_a_tower_with_nothing_in_a_row_are_an_error(shape: str) -> None:
    model = build("PlaitForClassification", shape)
    output = model.model.encode(shape, **without_row_1(inputs_of(shape)))
    assert not output.mask[1].any()  # a tower alone leaves the row out: it is the model that must answer
    with pytest.raises(ValueError, match=PROBLEM):
        model(encoder_outputs={shape: output})


def test_features_of_a_side_are_those_of_present_rows() -> None:
    model = build("PlaitForRetrieval", "apart")
    assert isinstance(model, PlaitForRetrieval)
    inputs = without_row_1(inputs_of("apart"))
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match=f"{PROBLEM}: every row needs at least one of text"):
        model.get_text_features(**text)
    with pytest.raises(ValueError, match=f"{PROBLEM}: every row needs at least one of image"):
        model.get_image_features(pixel_values=inputs["pixel_values"], image_present=inputs["image_present"])
    with pytest.raises(ValueError, match=PROBLEM):  # sides of different lengths: no row has another side
        model(**text, pixel_values=inputs["pixel_values"][:2])


def test_a_present_row_keeps_its_answer_and_a_graph_checks_nothing() -> None:
    """A row that lacks one of two modalities is answered; a compiled graph, which cannot depend on values, runs."""
    model = build("PlaitForClassification", "text")
    assert isinstance(model, PlaitForClassification)
    inputs = inputs_of("text")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)
    both = build("PlaitForClassification", "early")
    inputs = inputs_of("early") | {"image_present": torch.tensor([[True], [False], [True]])}
    assert both(**inputs).logits.isfinite().all()
    shared = inputs_of("early") | {"image_indices": torch.tensor([[0], [2], [-1]])}  # as the collator gives images
    compiled = torch.compile(both, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**shared).logits, both(**shared).logits)
