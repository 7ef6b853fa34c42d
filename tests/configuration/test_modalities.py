"""What is spelled out for the sake of a signature says the same as the table of modalities."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_args

import pytest

from plait import PlaitForRetrieval, PlaitProcessor
from plait.configuration import MODALITIES, PlaitConfig, PlaitFusionConfig, PlaitRetrievalConfig
from plait.configuration.modalities import CONFIG_FIELDS, MEDIA, MODALITY_TABLE
from plait.modeling.composition.compose import compose
from plait.modeling.composition.retrieval import compose_retrieval
from plait.modeling.inputs import MODALITY_INPUTS, DocumentInputs, EncoderInputs
from plait.training.data.media import ITEM_READERS, TARGET_IMAGE
from plait.training.explanations.blanks import build_blank_value
from plait.training.recipes.schema import ModelRecipe


def choices(config: type, field: str) -> tuple[str, ...]:
    """The strings that a field typed `Literal[...] | None` takes."""
    literal, _ = get_args(config.__annotations__[field])
    return get_args(literal)


def test_the_fields_of_configs_and_recipes_are_those_of_the_table() -> None:
    fields = [field.name for field in dataclasses.fields(PlaitConfig)]
    assert [name for name in fields if name in CONFIG_FIELDS.values()] == list(CONFIG_FIELDS.values())
    assert [field.name for field in dataclasses.fields(ModelRecipe) if field.name in MODALITIES] == list(MODALITIES)
    assert choices(PlaitFusionConfig, "query") == MODALITIES
    assert set(choices(PlaitRetrievalConfig, "document")) <= set(MODALITIES)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_tower_config_says_which_field_it_stands_in(modality: str) -> None:
    field = CONFIG_FIELDS[modality]
    assert PlaitConfig.sub_configs[field].base_config_key == field


@pytest.mark.parametrize("modality", MODALITIES)
def test_forward_takes_every_input_of_the_table(modality: str) -> None:
    row, inputs = MODALITY_TABLE[modality], MODALITY_INPUTS[modality]
    masks = [f"{item.name}_mask" for item in row.items if item.tower_mask is not None]
    named = {*(item.name for item in row.items), *masks, row.present_input} - {""}
    assert row.main_input in inputs
    assert set(inputs) <= set(EncoderInputs.__annotations__)
    assert modality == "text" or set(inputs) - {"image_indices"} == named


def test_a_document_takes_the_inputs_of_its_modality() -> None:
    names = [f"document_{name}" for side in choices(PlaitRetrievalConfig, "document") for name in MODALITY_INPUTS[side]]
    assert set(names) - set(DocumentInputs.__annotations__) == {"document_inputs_embeds"}
    assert set(DocumentInputs.__annotations__) <= set(names)


@pytest.mark.parametrize("composer", [compose, compose_retrieval, PlaitProcessor.compose])
def test_compose_takes_a_part_for_every_modality(composer: Callable[..., Any]) -> None:
    names = [name for name in inspect.signature(composer).parameters if name != "model_class"]
    assert tuple(names[: len(MODALITIES)]) == MODALITIES


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_processor_reads_every_modality(modality: str) -> None:
    row = MODALITY_TABLE[modality]
    assert row.processor_argument in inspect.signature(PlaitProcessor.__call__).parameters
    assert row.processor_part in inspect.signature(PlaitProcessor.__init__).parameters


@pytest.mark.parametrize("modality", MODALITIES)
def test_retrieval_gives_the_features_of_every_modality(modality: str) -> None:
    assert callable(getattr(PlaitForRetrieval, f"get_{modality}_features"))


def test_rows_of_data_hold_every_modality() -> None:
    assert MODALITIES[1:] == MEDIA and tuple(ITEM_READERS) == (*MEDIA, TARGET_IMAGE)
    assert all(build_blank_value("given", modality) is not None for modality in MODALITIES)
