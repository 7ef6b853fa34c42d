"""KID and FID against their equations written out, and where they must be about 0."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from plait.training.metrics.images import distribution
from plait.training.metrics.images.distribution import compute_fid, compute_kid, estimate_fid, estimate_kid


def draw(rows: int, width: int = 5, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return generator.normal(size=(rows, width)) @ mixing + shift


def kid_by_pairs(first: np.ndarray, second: np.ndarray) -> float:
    """Pair by pair, as the equation of Binkowski et al. stands."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (math.fsum(x * y) / len(x) + 1) ** 3

    n, m = len(first), len(second)
    own = math.fsum(kernel(first[i], first[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = math.fsum(kernel(second[i], second[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own + other - 2 * math.fsum(kernel(x, y) for x in first for y in second) / (n * m)


def fid_by_square_root(first: np.ndarray, second: np.ndarray) -> float:
    """With the matrix square root of scipy, as the equation of Heusel et al. stands."""
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    means = first.mean(axis=0) - second.mean(axis=0)
    return float(means @ means + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


@pytest.mark.parametrize("block", [7, 1024])
def test_kid_is_its_equation(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "ROWS_PER_BLOCK", block)
    first, second = draw(23), draw(31, seed=1, shift=0.5)
    expected = kid_by_pairs(first, second)
    assert compute_kid(first, second) == pytest.approx(expected, rel=1e-10)
    assert estimate_kid(first, second, 100).value == pytest.approx(expected, rel=1e-10)


def test_fid_is_its_equation() -> None:
    first, second = draw(300, 16), draw(200, 16, seed=1, shift=0.3) * 1.5
    assert compute_fid(first, second) == pytest.approx(fid_by_square_root(first, second), rel=1e-10)


def test_fid_of_a_feature_that_never_changes_is_that_of_the_others() -> None:
    """A dead unit makes both covariances singular, where a matrix square root loses half the digits."""
    first, second = draw(300, 8), draw(200, 8, seed=1)
    dead = [np.column_stack([rows, np.zeros((len(rows), 2))]) for rows in (first, second)]
    assert compute_fid(*dead) == pytest.approx(compute_fid(first, second), rel=1e-10)


def test_fid_of_normal_distributions_nears_its_closed_form() -> None:
    """Of two spherical normal distributions: width (mean difference^2 + (s1 - s2)^2)."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, (40_000, 4)), generator.normal(0.5, 2, (40_000, 4))
    assert compute_fid(first, second) == pytest.approx(4 * (0.25 + 1), rel=0.02)


def test_a_set_beside_itself() -> None:
    rows = draw(80)
    assert compute_fid(rows, rows) == pytest.approx(0, abs=1e-10)
    assert compute_kid(rows, rows) < 0  # unbiased: equal rows across the sets count, those within do not


def test_kid_of_two_halves_of_one_set_has_an_interval_around_zero() -> None:
    """In nearly all of 40 random halves; with another distribution in none."""
    rows = draw(120, seed=3)
    covered = shifted = 0
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(120)
        interval = estimate_kid(rows[order[:60]], rows[order[60:]], 200, seed)
        covered += interval.low <= 0 <= interval.high
        other = estimate_kid(rows[order[:60]], rows[order[60:]] + 3, 200, seed)
        shifted += other.low > 0
    assert covered >= 37
    assert shifted == 40


def test_resamples_of_kid_are_not_biased() -> None:
    """A row drawn twice is no pair of equal rows: the resamples lie around the value of all rows."""
    first, second = draw(40), draw(50, seed=1)
    weights = [distribution.draw_weights(len(rows), 4000, 5) for rows in (first, second)]
    values = distribution._compute_weighted_kid(first, second, *weights)
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - compute_kid(first, second)) < 4 * error


def test_the_fid_interval_is_as_wide_as_new_draws_scatter() -> None:
    pairs = [(draw(200, seed=2 * n), draw(200, seed=2 * n + 1, shift=1.0)) for n in range(1, 101)]
    found = [estimate_fid(*pair) for pair in pairs[:20]]
    assert all(interval.low <= interval.value <= interval.high for interval in found)
    expected = 2 * 1.96 * np.std([compute_fid(*pair) for pair in pairs])
    assert np.mean([interval.high - interval.low for interval in found]) == pytest.approx(expected, rel=0.25)


def test_the_kid_interval_is_as_wide_as_new_draws_scatter() -> None:
    pairs = [(draw(150, seed=2 * n), draw(150, seed=2 * n + 1, shift=2.0)) for n in range(1, 101)]
    found = [estimate_kid(*pair, 400) for pair in pairs[:20]]
    expected = np.std([compute_kid(*pair) for pair in pairs])
    below = np.mean([interval.value - interval.low for interval in found])
    above = np.mean([interval.high - interval.value for interval in found])
    assert (below, above) == pytest.approx((1.96 * expected, 1.96 * expected), rel=0.25)


def test_the_fid_interval_of_one_distribution_ends_at_zero() -> None:
    nearly = draw(2000, 2, seed=3)
    found = estimate_fid(nearly, nearly + np.random.default_rng(0).normal(0, 1e-3, nearly.shape))
    assert found.low == 0 < found.value < found.high


def test_fid_of_too_few_images_says_how_many_it_needs() -> None:
    with pytest.raises(ValueError, match="FID of 49 images in 5 features .* needs 50 images"):
        compute_fid(draw(49), draw(500))
    assert compute_fid(draw(50), draw(500)) > 0


def test_tensors_and_arrays_are_the_same() -> None:
    first, second = draw(60).astype(np.float32), draw(60, seed=1).astype(np.float32)
    assert compute_kid(torch.from_numpy(first), second) == compute_kid(first, torch.from_numpy(second))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((1, 5)), np.zeros((9, 5)), "the first features have 1 rows: expected at least 2"),
        (np.zeros((9, 5)), np.zeros((9, 4)), "features of widths 5 and 4: compute both with the same model"),
        (np.zeros((9, 5)), np.full((9, 5), np.nan), "the second features have NaN or infinity in 9 of 9 rows"),
        (np.zeros(9), np.zeros((9, 5)), r"the first features have shape \(9,\): expected \(rows, width\)"),
    ],
)
def test_bad_features_are_errors(first: np.ndarray, second: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_kid(first, second)


def test_lists_are_an_error() -> None:
    with pytest.raises(TypeError, match="the first features are list: expected a numpy array or a tensor"):
        compute_kid([[1.0]], draw(9))  # pyright: ignore[reportArgumentType]


def test_intervals_follow_the_seed_and_the_resamples() -> None:
    """The sets are resampled by seeds of their own."""
    first, second = draw(60, 3), draw(50, 3, seed=1, shift=0.2)
    for estimate, compute, count in ((estimate_kid, compute_kid, 1000), (estimate_fid, compute_fid, 100)):
        found = estimate(first, second)
        assert found == estimate(first, second, count, 0)
        assert found != estimate(first, second, 2 * count, 0) and found != estimate(first, second, count, 1)
        weights = [distribution.draw_weights(len(rows), 120, 4 + number) for number, rows in enumerate((first, second))]
        values = []
        for one, other in zip(*weights, strict=True):
            drawn = np.repeat(first, one.astype(int), axis=0), np.repeat(second, other.astype(int), axis=0)
            if estimate is estimate_fid:
                values.append(compute(*drawn))
            else:
                values.append(float(distribution._compute_weighted_kid(first, second, one[None], other[None])[0]))
        own = estimate(first, second, 120, 4)
        if estimate is estimate_fid:
            half = 1.959963984540054 * np.std(values, ddof=1)
            expected = max(0.0, own.value - half), own.value + half
        else:
            expected = np.quantile(values, [0.025, 0.975])
        assert own[1:] == pytest.approx(tuple(expected), rel=1e-9)


def test_the_fewest_rows() -> None:
    assert np.isfinite(compute_kid(draw(2), draw(2, seed=1)))
    assert estimate_kid(draw(10), draw(10, seed=1), 100).low < 1e9
    with pytest.raises(ValueError, match="the second features have 9 rows: expected at least 10"):
        estimate_kid(draw(10), draw(9, seed=1), 100)
