"""The arguments of `forward`: named once, and seen by whoever reads a signature."""

import inspect

import pytest
import torch
from transformers.utils.generic import find_labels

from plait import (
    PlaitForCausalLM,
    PlaitForClassification,
    PlaitForConditionalGeneration,
    PlaitForMaskedLM,
    PlaitForQuestionAnswering,
    PlaitModel,
)

from .zoo import build, inputs_of

ENCODER = (
    "input_ids attention_mask token_type_ids position_ids inputs_embeds pixel_values image_present image_indices "
    "input_features audio_present output_attentions output_hidden_states encoder_outputs"
).split()
CACHE = ["past_key_values", "use_cache"]
DECODER = ["decoder_input_ids", "decoder_attention_mask", "decoder_position_ids", "decoder_inputs_embeds"]
LOSS = ["labels", "num_items_in_batch"]
NAMES = {
    PlaitModel: [*ENCODER, *DECODER, *CACHE],
    PlaitForClassification: [*ENCODER, *LOSS],
    PlaitForMaskedLM: [*ENCODER, *LOSS],
    PlaitForQuestionAnswering: [*ENCODER, "start_positions", "end_positions", "num_items_in_batch"],
    PlaitForCausalLM: [*ENCODER, *CACHE, *LOSS, "logits_to_keep"],
    PlaitForConditionalGeneration: [*ENCODER, *DECODER, *CACHE, *LOSS, "logits_to_keep"],
}


@pytest.mark.parametrize("model_class", NAMES)
def test_signature_names_every_argument(model_class: type) -> None:
    parameters = inspect.signature(model_class.forward).parameters
    spelled = {name for name, one in parameters.items() if one.kind is not inspect.Parameter.VAR_KEYWORD}
    assert set(NAMES[model_class]) | {"self"} <= spelled  # and what later modalities add
    assert all(parameter.annotation is not inspect.Parameter.empty for name, parameter in list(parameters.items())[1:])
    assert list(parameters)[1] == "input_ids"


@pytest.mark.parametrize("model_class", NAMES)
def test_labels_are_what_a_batch_must_have(model_class: type) -> None:
    expected = {PlaitModel: [], PlaitForQuestionAnswering: ["start_positions", "end_positions"]}
    assert find_labels(model_class) == expected.get(model_class, ["labels"])


def test_arguments_by_place_and_by_name_are_the_same() -> None:
    model = build("PlaitForClassification", "text")
    inputs = inputs_of("text")
    placed = model(inputs["input_ids"], inputs["attention_mask"]).logits
    assert torch.equal(placed, model(**inputs).logits)


def test_an_unknown_or_repeated_argument_is_an_error() -> None:
    model = build("PlaitForClassification", "text")
    inputs = inputs_of("text")
    with pytest.raises(TypeError, match="PlaitForClassification got the argument 'pixels', which it does not have"):
        model(**inputs, pixels=1)
    with pytest.raises(TypeError, match="'input_ids', more than once"):
        model(inputs["input_ids"], **inputs)
    with pytest.raises(TypeError, match=r"takes \d+ positional arguments, but got 99"):
        model(*[None] * 99)


def test_what_no_decoder_reads_is_refused() -> None:
    model = build("PlaitModel", "text")
    inputs = inputs_of("text")
    with pytest.raises(ValueError, match="unexpected arguments decoder_input_ids: this model has no decoder"):
        model(**inputs, decoder_input_ids=inputs["input_ids"])
