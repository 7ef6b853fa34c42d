"""Which rows belong together, and the folds."""

import numpy as np
import pytest
from datasets import Dataset

from plait.training.compare.folds import assign_folds, assign_groups, build_strata
from plait.training.data.labels import MULTI, REGRESSION, SINGLE, LabelSpec
from plait.training.recipes.errors import RecipeError

LABELS = LabelSpec(("a", "b", "c"), SINGLE)


def test_rows_that_share_anything_are_one_group() -> None:
    """Rows 0 and 4 share nothing but are joined by row 2; case and spaces do not tell texts apart."""
    texts = ["One  text", "another", "one text", None, "third", None]
    pictures = [{"bytes": bytes([number]), "path": None} for number in (0, 1, 2, 3, 2, 5)]
    data = Dataset.from_dict({"text": texts, "image": pictures})
    groups = assign_groups(data, ["text", "image"])
    assert groups[0] == groups[2] == groups[4]
    assert len(set(groups.tolist())) == 4
    assert len(set(assign_groups(data, ["text"]).tolist())) == 5
    assert len(set(assign_groups(data, []).tolist())) == 6


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(RecipeError, match="no column 'speaker', only text"):
        assign_groups(Dataset.from_dict({"text": ["a"]}), ["speaker"])


def random_rows(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(rows // 3, size=rows), generator.choice(3, size=rows, p=[0.6, 0.3, 0.1])


@pytest.mark.parametrize("seed", range(3))
def test_folds_keep_groups_whole_and_spread_the_classes(seed: int) -> None:
    drawn, classes = random_rows(seed, 600)
    groups = np.unique(drawn, return_inverse=True)[1]
    folds = assign_folds(groups, classes, LABELS, 5, seed)
    assert set(folds) == set(range(5))
    for group in range(groups.max() + 1):
        assert len(set(folds[groups == group])) == 1
    for fold in range(5):
        assert np.bincount(folds)[fold] == pytest.approx(120, abs=20)
        assert (classes[folds == fold] == 2).mean() == pytest.approx((classes == 2).mean(), abs=0.05)
    assert (folds == assign_folds(groups, classes, LABELS, 5, seed)).all()


def test_folds_spread_the_range_of_a_regression() -> None:
    targets = np.random.default_rng(0).normal(size=400)
    folds = assign_folds(np.arange(400), targets, LabelSpec((), REGRESSION), 4, 0)
    for fold in range(4):
        assert targets[folds == fold].mean() == pytest.approx(targets.mean(), abs=0.1)
        assert targets[folds == fold].std() == pytest.approx(targets.std(), abs=0.1)


def test_folds_of_several_labels_a_row() -> None:
    folds = assign_folds(np.arange(30) // 2, np.zeros((30, 3)), LabelSpec(("a", "b", "c"), MULTI), 3, 0)
    assert np.bincount(folds).tolist() == [10, 10, 10]


def test_rows_that_cannot_be_cut_are_an_error() -> None:
    with pytest.raises(RecipeError, match=r"compare.folds is 1: expected 2 or more, and at most the 9 groups"):
        assign_folds(np.arange(9), np.zeros(9), LABELS, 1, 0)
    with pytest.raises(RecipeError, match="8 of 10 rows belong together"):
        assign_folds(np.array([0] * 8 + [1, 2]), np.zeros(10), LABELS, 3, 0)


def test_at_least_two_folds_and_a_group_for_each() -> None:
    groups, targets = np.array([0, 0, 1, 1]), np.zeros(4)
    assert sorted(assign_folds(groups, targets, LABELS, 2, 0).tolist()) == [0, 0, 1, 1]
    with pytest.raises(RecipeError, match="compare.folds is 3: expected 2 or more, and at most the 2 groups"):
        assign_folds(groups, targets, LABELS, 3, 0)


@pytest.mark.parametrize(("largest", "fits"), [(6, True), (7, False)])
def test_a_group_may_fill_two_folds_of_three(largest: int, fits: bool) -> None:
    """Of nine rows a fold's share is three."""
    groups = np.array([0] * largest + list(range(1, 10 - largest)))
    if fits:
        assert len(assign_folds(groups, np.zeros(9), LABELS, 3, 0)) == 9
        return
    with pytest.raises(RecipeError, match=f"{largest} of 9 rows belong together, more than twice"):
        assign_folds(groups, np.zeros(9), LABELS, 3, 0)


def test_another_seed_makes_other_folds() -> None:
    folds = [assign_folds(np.arange(30), np.arange(30) % 3, LABELS, 3, seed).tolist() for seed in (0, 1)]
    assert folds[0] != folds[1]


def test_a_regression_is_spread_by_ten_bins() -> None:
    spec = LabelSpec((), REGRESSION)
    assert np.bincount(build_strata(np.random.default_rng(0).permutation(200) / 2, spec)).tolist() == [20] * 10
    assert set(build_strata(np.array([1.0, 1.0, np.nan, 2.0]), spec)[:2].tolist()) <= {0, 1}
    assert build_strata(np.array([2, 0, 1]), LABELS).tolist() == [2, 0, 1]
