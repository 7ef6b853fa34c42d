"""A feature extractor that turns audio into mel frames without padding, for recurrent towers."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function


class PlaitMelFeatureExtractor(SequenceFeatureExtractor):
    """Turns one clip into `input_features` (1, mel bins, frames), a frame every `hop_length` samples, not padded.

    Args:
        feature_size: mel bins, between 0 Hz and half the sampling rate (Slaney's scale and norm).
        sampling_rate: samples per second.
        n_fft, hop_length: samples of a (Hann) window, and between the starts of two windows; default 25 and 10 ms.
        log: return the natural logarithm of the power, floored at 1e-6; False: the power itself.
        normalize: "clip" brings each bin to mean 0 and standard deviation 1 over the clip; "none" changes nothing.
        target_dbfs: loudness to which each clip is scaled first, in dB of full scale (root mean square); None: not
            scaled. Silence stays silent.
        padding_value: fills the end of the shorter clips of a batch.

    Raises:
        ValueError: another `normalize`.
    """

    model_input_names = ["input_features"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        n_fft: int | None = None,
        hop_length: int | None = None,
        log: bool = True,
        normalize: Literal["clip", "none"] = "clip",
        target_dbfs: float | None = None,
        padding_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if normalize not in ("clip", "none"):
            raise ValueError(f"normalize is {normalize!r}: choose 'clip' or 'none'")
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.n_fft, self.hop_length = n_fft or sampling_rate // 40, hop_length or sampling_rate // 100
        self.log, self.normalize, self.target_dbfs = log, normalize, target_dbfs

    def __call__(
        self, raw_speech: np.ndarray, sampling_rate: int | None = None, return_tensors: str | None = None
    ) -> BatchFeature:
        """Returns the features of one clip. raw_speech: (samples,), about -1..1.

        Raises ValueError if `sampling_rate` differs from the extractor's.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"the clip has {sampling_rate} samples per second, not {self.sampling_rate}: resample it")
        samples = np.pad(raw_speech, (0, max(self.n_fft - len(raw_speech), 0))).astype(np.float64)
        if self.target_dbfs is not None:
            loudness = np.sqrt(np.mean(np.square(raw_speech, dtype=np.float64)))
            samples *= 10 ** (self.target_dbfs / 20) / loudness if loudness else 1.0
        mel = spectrogram(
            samples,
            window_function(self.n_fft, "hann"),
            self.n_fft,
            self.hop_length,
            power=2.0,
            mel_filters=self.build_filters(),
            pad_mode="constant",
        )
        mel = np.log(np.maximum(mel, 1e-6)) if self.log else mel
        if self.normalize == "clip":
            mel = (mel - mel.mean(axis=1, keepdims=True)) / (mel.std(axis=1, keepdims=True) + 1e-5)
        return BatchFeature({"input_features": mel[None].astype(np.float32)}, tensor_type=return_tensors)

    def build_filters(self) -> np.ndarray:
        """Returns the mel filter bank (frequencies, mel bins)."""
        highest, count = self.sampling_rate / 2, self.n_fft // 2 + 1
        return mel_filter_bank(
            count, self.feature_size, 0, highest, self.sampling_rate, norm="slaney", mel_scale="slaney"
        )


def build_voice_feature_extractor(config: Mapping[str, Any]) -> PlaitMelFeatureExtractor | None:
    """Builds the feature extractor (of power, not its logarithm) for a voice encoder's config.json; None for others."""
    names = ("feature_size", "sampling_rate", "n_fft", "hop_length", "target_dbfs")
    if "model_type" in config or any(name not in config for name in names):
        return None
    return PlaitMelFeatureExtractor(**{name: config[name] for name in names}, log=False, normalize="none")
