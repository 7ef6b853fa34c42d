"""The mel features of a clip: its loudness, and silence."""

import numpy as np
import pytest

from plait.processing.mel import PlaitMelFeatureExtractor, build_voice_feature_extractor


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


def test_features_are_those_of_the_whole_clip() -> None:
    """A window every hop, by default of 1/40 and 1/100 s; a short clip is padded to one window; then the logarithm,
    then the norm of each mel bin over time."""
    power = extract(make_clip())[0]
    assert power.shape == (4, 1 + (400 + 2 * 12 - 25) // 10) and power.dtype == np.float32
    assert extract(make_clip(), n_fft=50, hop_length=20).shape == (1, 4, 1 + (400 + 2 * 25 - 50) // 20)
    logs = extract(make_clip(), log=True)[0]
    np.testing.assert_allclose(logs, np.log(np.maximum(power, 1e-6)), rtol=1e-4)
    normed = extract(make_clip(), log=True, normalize="clip")[0]
    expected = (logs - logs.mean(axis=1, keepdims=True)) / (logs.std(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normed, expected, rtol=1e-3, atol=1e-4)
    short = np.ones(7, np.float32)
    np.testing.assert_array_equal(extract(short), extract(np.pad(short, (0, 18))))
    assert extract(short).any()


def test_defaults_and_mistakes() -> None:
    extractor = PlaitMelFeatureExtractor()
    assert (extractor.feature_size, extractor.sampling_rate) == (80, 16000)
    assert (extractor.n_fft, extractor.hop_length, extractor.padding_value) == (400, 160, 0.0)
    assert (extractor.log, extractor.normalize, extractor.target_dbfs) == (True, "clip", None)
    assert extractor.build_filters().shape == (201, 80)
    with pytest.raises(ValueError, match="8000 samples per second, not 16000: resample"):
        extractor(make_clip(), sampling_rate=8000)
    extractor(make_clip(), sampling_rate=16000)
    with pytest.raises(ValueError, match="normalize is 'batch'"):
        PlaitMelFeatureExtractor(normalize="batch")  # type: ignore[arg-type]


def test_only_a_config_of_a_voice_encoder_gives_an_extractor() -> None:
    config = {"feature_size": 4, "sampling_rate": 1000, "n_fft": 30, "hop_length": 9, "target_dbfs": -30.0}
    found = build_voice_feature_extractor({**config, "other": 1})
    assert found is not None and (found.log, found.normalize) == (False, "none")
    assert {name: getattr(found, name) for name in config} == config
    assert build_voice_feature_extractor({**config, "model_type": "x"}) is None
    for name in config:
        assert build_voice_feature_extractor({key: value for key, value in config.items() if key != name}) is None
