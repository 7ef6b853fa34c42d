"""What is said of metrics that mean little: below a baseline, or of few rows."""

import math

import numpy as np
import pytest

from plait.training.reports.cautions import FEW_MEASURED_ROWS, compute_half_width, list_cautions
from plait.training.reports.page import render_report

MANY = {"validation": FEW_MEASURED_ROWS, "test": 10_000}


@pytest.mark.parametrize(
    ("metric", "model", "baseline", "is_worse"),
    [
        ("accuracy", 0.4, 0.5, True),
        ("accuracy", 0.5, 0.5, False),
        ("rmse", 2.0, 1.0, True),
        ("rmse", 1.0, 2.0, False),
        ("text_to_image_median_rank", 9.0, 5.0, True),
        ("distinct", 0.1, 1.0, False),
        ("loss", 0.4, 0.5, False),
    ],
)
def test_a_model_below_a_baseline_is_said(metric: str, model: float, baseline: float, is_worse: bool) -> None:
    columns = {"model": {metric: model}, "majority": {metric: baseline}, "text_only": {metric: 99.0 * model}}
    found = list_cautions({"test": columns}, MANY)
    assert len(found) == is_worse
    assert all(f"{metric} {model:.4f}, majority {baseline:.4f}" in text for text in found)


def test_the_best_baseline_is_the_one_that_counts() -> None:
    columns = {"model": {"chrf": 5.0}, "most_frequent": {"chrf": 3.0}, "copy": {"chrf": 7.0}}
    assert list_cautions({"test": columns}, MANY) == ["on test the model is below a baseline: chrf 5.0000, copy 7.0000"]


@pytest.mark.parametrize("rows", [1, 23, FEW_MEASURED_ROWS - 1, FEW_MEASURED_ROWS, 5000])
def test_few_rows_are_said_with_their_uncertainty(rows: int) -> None:
    columns = {"model": {"accuracy": 0.5}, "majority": {"accuracy": 0.4}}
    found = list_cautions({"validation": columns}, {"validation": rows})
    assert len(found) == (rows < FEW_MEASURED_ROWS)
    assert all(f"validation has {rows} rows" in text for text in found)
    drawn = np.random.default_rng(0).binomial(rows, 0.5, 20_000) / rows
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert math.isclose(compute_half_width(rows), (high - low) / 2, abs_tol=0.5 / rows + 0.005) or rows < 10


@pytest.mark.parametrize(
    ("metric", "is_share"),
    [("accuracy", True), ("exact_match", True), ("text_to_image_recall@10", True), ("psnr", False), ("rmse", False)],
)
def test_only_of_shares_it_is_said_how_uncertain_they_are(metric: str, is_share: bool) -> None:
    (said,) = list_cautions({"test": {"model": {metric: 0.5}}}, {"test": 50})
    assert ("share near 0.5" in said) == is_share
    assert said.startswith("test has 50 rows") and said.endswith("so small differences are chance")


def test_the_page_says_it_under_the_results() -> None:
    content = {"name": "run", "task": "classification", "split": "test", "rows": 3, "errors": [], "images": None}
    content |= {"metrics": {}, "modalities": "", "examples": [], "composition": "", "notes": []}
    page = render_report({**content, "cautions": ["on test it is <below> a baseline"]}, {})
    assert page.index("<h2>Results</h2>") < page.index("on test it is &lt;below&gt; a baseline")
    assert "below" not in render_report(content, {})  # of an earlier version
