"""Of a model whose score is linear in its inputs every method gives the exact answer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from plait import PlaitConfig, PlaitForClassification
from plait.modeling.attribution.features import Features, build_grid_groups, drop_channels, number_features
from plait.modeling.attribution.methods import METHODS, AttributionCall, MethodSettings, attribute
from plait.modeling.attribution.scored_row import ScoredRow
from plait.modeling.attribution.state import explained
from plait.modeling.attribution.target import Target

from ...compatibility.tiny_models import PATCHES, draw, fill_with_numbers


@pytest.fixture(scope="module")
def linear() -> Any:
    """The mean of embedded patches, and a linear map of it."""
    config = PlaitConfig(
        vision_config=PATCHES | {"class_tokens": 0, "pooling": "mean"}, problem_type="regression", num_labels=1
    )
    torch.manual_seed(0)
    return fill_with_numbers(PlaitForClassification(config))


def build_call(model: Any, pixels: Tensor, baseline: Tensor, **settings: Any) -> AttributionCall:
    row = ScoredRow(model, {"pixel_values": pixels}, Target("value", torch.tensor([0])), ["pixel_values"])
    groups = build_grid_groups((1, 8, 8), torch.ones(1, dtype=torch.bool), cells=2)
    features = number_features({"pixel_values": groups})
    generator = torch.Generator().manual_seed(0)
    return AttributionCall(row, features, {"pixel_values": baseline}, MethodSettings(**settings), generator)


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("attention")])
def test_amounts_are_those_of_the_linear_model(linear: Any, method: str) -> None:
    pixels, baseline = draw(1, 1, 3, 8, 8), draw(2, 1, 3, 8, 8, seed=2)
    x = pixels.clone().requires_grad_()
    (slope,) = torch.autograd.grad(linear(pixel_values=x).logits.sum(), x)
    exact = drop_channels("pixel_values", (slope * (pixels - baseline.mean(dim=0, keepdim=True)))[0])
    # gradient SHAP draws one of the baselines for each sample
    given = baseline.mean(dim=0, keepdim=True) if method == "gradient_shap" else baseline
    with explained(linear):
        call = build_call(linear, pixels, given, cells=2, batch_size=5)
        found = attribute(method, call, set())
    (amounts,) = found.amounts
    assert found.score - found.baseline_score == pytest.approx(exact.sum().item(), abs=1e-4)
    assert amounts.sum().item() == pytest.approx(exact.sum().item(), abs=1e-4)
    cells = [part.sum().item() for half in exact[0].split(4) for part in half.split(4, dim=1)]
    assert [part.sum().item() for half in amounts[0].split(4) for part in half.split(4, dim=1)] == pytest.approx(
        cells, abs=1e-4
    )
    if METHODS[method].follows:
        torch.testing.assert_close(amounts, exact, atol=1e-4, rtol=1e-4)


def test_lime_is_near_the_linear_model(linear: Any) -> None:
    pixels, baseline = draw(1, 1, 3, 8, 8), torch.zeros(1, 1, 3, 8, 8)
    with explained(linear):
        kernels = [
            attribute("perturbation", build_call(linear, pixels, baseline, kernel=kernel), set())
            for kernel in ("shap", "lime")
        ]
    shap, lime = (found.amounts[0] for found in kernels)
    torch.testing.assert_close(lime, shap, atol=0.02, rtol=0.05)


def test_sampled_choices_of_many_features_are_exact_for_a_linear_model(linear: Any) -> None:
    """64 of 2^16 choices: least squares of a linear game needs no more than its features."""
    pixels, baseline = draw(1, 1, 3, 8, 8), torch.zeros(1, 1, 3, 8, 8)
    groups = build_grid_groups((1, 8, 8), torch.ones(1, dtype=torch.bool), cells=4)
    features = number_features({"pixel_values": groups})
    with explained(linear):
        call = build_call(linear, pixels, baseline)._replace(features=features)
        by_fit = attribute("perturbation", call, set()).amounts[0]
        by_occlusion = attribute("occlusion", call, set()).amounts[0]
    torch.testing.assert_close(by_fit, by_occlusion, atol=1e-4, rtol=1e-4)


def test_features_outside_stay_as_they_are(linear: Any) -> None:
    pixels, baseline = draw(1, 1, 3, 8, 8), torch.zeros(1, 1, 3, 8, 8)
    groups = build_grid_groups((1, 8, 8), torch.ones(1, dtype=torch.bool), cells=2)
    groups[..., :4, :] = -1
    features = Features({"pixel_values": groups.masked_fill(groups >= 0, 0)}, 1)
    keep = torch.tensor([[True], [False]])
    whole, half = features.mix(keep, {"pixel_values": pixels}, {"pixel_values": baseline})[0]
    assert torch.equal(whole, pixels[0]) and torch.equal(half[..., :4, :], pixels[0, ..., :4, :])
    assert not half[..., 4:, :].any()
    with explained(linear):
        call = build_call(linear, pixels, torch.where(groups < 0, pixels, baseline))._replace(features=features)
        for method in METHODS:
            amounts = attribute(method, call, set()).amounts[0]
            assert not amounts[:, :4].any() and amounts[:, 4:].any()
