"""Rows that lack a modality, in the classes that compare modalities: what is absent has no part and is not seen."""

from typing import Any

import pytest
import torch
from torch import Tensor

from plait.modeling import PlaitPreTrainedModel

from ..zoo import inputs_of, labels_of

CASES = [("PlaitForRetrieval", "apart"), ("PlaitForPreTraining", "early"), ("PlaitForPreTraining", "late")]
WHOLE, SPEAKS, SHOWS = 0, 1, 2  # rows: one with both, one with a text alone, one with a picture alone


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def inputs(case: tuple[str, str]) -> dict[str, Tensor]:
    """Two rows of each kind; no two are alike."""
    found = {name: torch.cat((value, value.flip(0))) for name, value in inputs_of(case[1]).items()}
    found["input_ids"][3:] = (found["input_ids"][3:] + 5) % 37 + 1
    found["pixel_values"][3:] *= -1
    kinds = torch.arange(6) % 3
    found["attention_mask"][kinds == SHOWS] = 0
    return {**found, "image_present": (kinds != SPEAKS)[:, None]}


@torch.no_grad()
def read(case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]) -> tuple[dict, dict]:
    """Losses, and vectors by modality."""
    taught: Any = model(**inputs, **labels_of(case[0], inputs), return_loss=True)
    outputs: Any = model(**inputs)
    embeds = outputs.get("embeds") or {"text": outputs["text_embeds"], "image": outputs["image_embeds"]}
    return {"loss": taught.loss, **(taught.get("losses") or {})}, embeds


def test_losses_and_vectors_are_finite(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    losses, embeds = read(case, model, inputs)
    assert all(tensor.isfinite().all() for tensor in (*losses.values(), *embeds.values()))
    assert losses["loss"] > 0


def test_nothing_is_seen_where_a_modality_is_absent(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    kinds = torch.arange(6) % 3
    other = {name: value.clone() for name, value in inputs.items()}
    other["input_ids"][kinds == SHOWS] = 17
    other["pixel_values"][kinds == SPEAKS] = 1000.0
    for one, two in zip(read(case, model, inputs), read(case, model, other), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["input_ids", "pixel_values"])
def test_what_is_present_is_seen(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor], name: str
) -> None:
    """In a row that has both; the other rows' vectors stay."""
    other = {key: value.clone() for key, value in inputs.items()}
    other[name][WHOLE] = other[name][WHOLE].flip(-1)
    (before, vectors), (after, changed) = read(case, model, inputs), read(case, model, other)
    assert abs(before["loss"] - after["loss"]) > 1e-5
    modality = "text" if name == "input_ids" else "image"
    rows = (vectors[modality] - changed[modality]).abs().amax(dim=1) > 1e-5
    assert rows.nonzero().flatten().tolist() == [WHOLE]


def test_a_row_without_its_partner_has_no_part_in_comparing(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    kept = [0, 3]
    name = "loss" if case[0] == "PlaitForRetrieval" else "contrastive"
    whole = read(case, model, inputs)[0][name]
    torch.testing.assert_close(read(case, model, {key: value[kept] for key, value in inputs.items()})[0][name], whole)


def test_every_parameter_gets_a_gradient(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    model.train()(**inputs, **labels_of(case[0], inputs), return_loss=True).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
