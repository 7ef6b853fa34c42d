"""Near copies of training images, and diversity within a prompt."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from plait.training.metrics.images import copies
from plait.training.metrics.images.copies import (
    compute_nearest_distances,
    measure_diversity,
    measure_near_copies,
)


def draw(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("block", [40, 2**24])
def test_the_distance_is_the_smallest_rms_over_pooled_pixels(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "DISTANCES_PER_BLOCK", block)
    images, train = draw(6, 0), draw(9, 1)
    pooled, known = (F.avg_pool2d(x.double(), 2).numpy() for x in (images, train))
    for mirrored in (False, True):
        both = [known, known[..., ::-1]] if mirrored else [known]
        expected = [min(np.sqrt(((x - y) ** 2).mean()) for part in both for y in part) for x in pooled]
        found = compute_nearest_distances(images, train, mirrored=mirrored)
        assert found == pytest.approx(np.array(expected), abs=1e-6)


def test_a_copy_and_a_mirrored_copy_have_no_distance() -> None:
    train = draw(20, 1)
    assert (compute_nearest_distances(train[3:8], train) == 0).all()
    assert (compute_nearest_distances(train[3:8].flip(3), train) < 1e-6).all()  # summed in another order
    assert (compute_nearest_distances(train[3:8].flip(3), train, mirrored=False) > 0.1).all()


def test_memorised_images_are_near_copies_and_new_ones_are_not() -> None:
    train, test = draw(50, 1), draw(200, 2)
    memorised = (train[:30] + 0.02 * torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(3))).clamp(-1, 1)
    found = measure_near_copies(torch.cat([memorised, draw(30, 4)]), test, train)
    assert found.share.value == pytest.approx(0.5, abs=0.04)
    assert found.distance.value < found.real_distance.value
    new = measure_near_copies(draw(300, 5), test, train)
    assert new.share.low <= 0.01 <= new.share.high
    assert new.real_distance == found.real_distance


def test_the_percentile_needs_enough_test_images() -> None:
    with pytest.raises(ValueError, match=r"50 test images: percentile 1.0 needs at least 100"):
        measure_near_copies(draw(5, 0), draw(50, 1), draw(5, 2))
    assert measure_near_copies(draw(5, 0), draw(50, 1), draw(5, 2), percentile=2).share.value <= 1


def test_test_images_that_were_trained_on_are_an_error() -> None:
    train = draw(20, 1)
    with pytest.raises(ValueError, match="3 of 103 test images are training images: leave them out"):
        measure_near_copies(draw(5, 0), torch.cat([draw(100, 2), train[:2], train[4:5].flip(3)]), train)


def test_diversity_is_the_mean_distance_of_two_images_of_a_prompt() -> None:
    features = np.random.default_rng(0).normal(size=(7, 6))
    prompts = np.array([4, 4, 4, 1, 1, 1, 1])
    means = []
    for rows in (features[:3], features[3:]):
        pairs = [(x, y) for n, x in enumerate(rows) for y in rows[n + 1 :]]
        means.append(np.mean([np.sqrt(((x - y) ** 2).mean()) for x, y in pairs]))
    found = measure_diversity(features, prompts)
    assert found.value == pytest.approx(np.mean(means))
    assert found.low == pytest.approx(min(means)) and found.high == pytest.approx(max(means))
    single = measure_diversity(features[3:], prompts[3:])
    assert single.value == pytest.approx(means[1])
    assert single.low < single.value < single.high


def test_equal_images_of_a_prompt_have_no_diversity() -> None:
    images = draw(5, 0).repeat_interleave(3, dim=0)
    assert measure_diversity(images, torch.arange(5).repeat_interleave(3)) == (0, 0, 0)
    with pytest.raises(ValueError, match="each of the 15 prompts has one image"):
        measure_diversity(images, torch.arange(15))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.full((2, 3, 8, 8), 255.0), ValueError, "images reach 255: expected values in -1..1"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "images are torch.uint8: expected floats"),
        (torch.zeros(3, 8, 8), ValueError, r"images have shape \(3, 8, 8\): expected \(images, channels"),
        (torch.full((2, 3, 8, 8), torch.nan), ValueError, "images have NaN or infinity in 2 of 2 rows"),
        (torch.zeros(2, 3, 9, 8), ValueError, "pool is 2: it does not divide the 9 x 8 pixels of the images"),
        (torch.zeros(2, 3, 6, 8), ValueError, "resize them to one size"),
    ],
)
def test_bad_images_are_errors(images: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compute_nearest_distances(images, draw(4, 0))


def test_the_threshold_is_a_percentile_of_the_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the first; an image at the threshold is no copy, and one at the distance of equal images is no
    training image."""
    images, test, train = draw(40, 0), draw(100, 1), draw(30, 2)
    own, real = compute_nearest_distances(images, train), compute_nearest_distances(test, train)
    for options, percentile in (({}, 1), ({"percentile": 5.0}, 5)):
        found = measure_near_copies(images, test, train, **options)
        assert found.threshold == pytest.approx(np.percentile(real, percentile))
        assert found.share.value == (own < found.threshold).mean()
    assert found.distance.value == pytest.approx(own.mean())
    assert found.real_distance.value == pytest.approx(real.mean())
    equal = measure_near_copies(test, test, train, percentile=100)
    assert equal.threshold == real.max() and equal.share.value == 0.99
    plain = measure_near_copies(images, test, train, 4, False)
    own, real = (compute_nearest_distances(each, train, 4, False) for each in (images, test))
    assert plain.threshold == np.percentile(real, 1) and plain.distance.value == pytest.approx(own.mean())
    monkeypatch.setattr(copies, "SAME_IMAGE", plain.threshold)
    assert measure_near_copies(images, test, train, 4, False) == plain
    monkeypatch.setattr(copies, "SAME_IMAGE", float(np.nextafter(plain.threshold, 1)))
    with pytest.raises(ValueError, match="1 of 100 test images are training images"):
        measure_near_copies(images, test, train, 4, False)


def test_images_are_pooled_by_two_and_mirrored_unless_told_otherwise() -> None:
    images, train = draw(4, 0), draw(5, 1)
    expected = compute_nearest_distances(images, train)
    assert np.array_equal(expected, compute_nearest_distances(images, train, 2, True))
    assert not np.array_equal(expected, compute_nearest_distances(images, train, 1, True))
    assert not np.array_equal(expected, compute_nearest_distances(images, train, 2, False))
    rows = images.flatten(1).double()
    others = torch.cat([train, train.flip(3)]).flatten(1).double()
    whole = (rows[:, None] - others[None]).square().mean(2).sqrt().amin(1)
    assert compute_nearest_distances(images, train, 1) == pytest.approx(whole.numpy(), abs=1e-6)
    with pytest.raises(ValueError, match="pool is 0: it does not divide"):
        compute_nearest_distances(images, train, 0)
    with pytest.raises(ValueError, match="pool is 2: it does not divide the 8 x 7 pixels of the training images"):
        compute_nearest_distances(images, train[..., :7])


def test_intervals_of_diversity_follow_the_seed_and_the_resamples() -> None:
    """Of one prompt: resampled images, of which two draws of one are no pair."""
    whole = np.random.default_rng(0).normal(size=(40, 4))
    for prompts in (np.zeros(40, dtype=int), np.arange(40) // 2):
        first = measure_diversity(whole, prompts)
        assert first == measure_diversity(whole, prompts, 2000, 0)
        assert first != measure_diversity(whole, prompts, 2000, 1)
        assert first != measure_diversity(whole, prompts, 150, 0)
    features, single = whole[:6], np.zeros(6, dtype=int)
    distances = np.sqrt(((features[:, None] - features[None]) ** 2).mean(axis=2))
    values = []
    for weights in copies.draw_weights(6, 300, 4):
        drawn = np.repeat(np.arange(6), weights.astype(int))
        pairs = [distances[i, j] for i in drawn for j in drawn if i != j]
        if pairs:
            values.append(np.mean(pairs))
    low, high = np.quantile(values, [0.025, 0.975])
    assert measure_diversity(features, single, 300, 4)[1:] == pytest.approx((low, high))
    pair = measure_diversity(features[:2], single[:2], 200)  # half the resamples are one image alone
    assert pair == pytest.approx((distances[0, 1],) * 3)
