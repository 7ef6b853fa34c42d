"""The mel features of a clip: its loudness, and silence."""

import numpy as np
import pytest

from plait.processing.mel import PlaitMelFeatureExtractor


def extract(clip: np.ndarray, **options: object) -> np.ndarray:
    options = {"feature_size": 4, "sampling_rate": 1000, "log": False, "normalize": "none", **options}
    return PlaitMelFeatureExtractor(**options)(clip, return_tensors="np")["input_features"]


def make_clip() -> np.ndarray:
    return np.sin(np.linspace(0, 60, 400)).astype(np.float32) * 0.1


@pytest.mark.parametrize("decibels", [-30.0, -20.0])
def test_a_target_loudness_makes_the_gain_invisible(decibels: float) -> None:
    quiet, loud = (extract(gain * make_clip(), target_dbfs=decibels) for gain in (0.1, 4.0))
    np.testing.assert_allclose(quiet, loud, rtol=1e-4, atol=1e-8)
    wanted = 10 ** (decibels / 20) / np.sqrt(np.mean(make_clip().astype(np.float64) ** 2))
    np.testing.assert_allclose(quiet, extract(make_clip()) * wanted**2, rtol=1e-4, atol=1e-8)


def test_without_a_target_the_gain_is_seen() -> None:
    np.testing.assert_allclose(extract(2 * make_clip()), 4 * extract(make_clip()), rtol=1e-4, atol=1e-8)


def test_silence_has_features() -> None:
    assert np.isfinite(extract(np.zeros(400, np.float32), target_dbfs=-30.0, log=True)).all()
