"""How much time the elements of an audio clip stand for."""

from typing import Any, NamedTuple

from ...processing.audio import read_waveform


class ClipTimes(NamedTuple):
    """step: seconds between two elements of a clip along time (samples of a waveform, or frames); count: the elements
    inside the clip, without the silence that some feature extractors add."""

    step: float
    count: int


def find_clip_times(extractor: Any, clip: Any, reads_waveforms: bool, length: int) -> ClipTimes:
    """Finds the times of a clip of which the model reads `length` elements."""
    seconds = len(read_waveform(clip, None, int(extractor.sampling_rate))) / extractor.sampling_rate
    hop = 1 if reads_waveforms else getattr(extractor, "hop_length", None)
    step = hop / extractor.sampling_rate if hop is not None else FRAME_SECONDS
    return ClipTimes(step, max(1, min(length, round(seconds / step))))


FRAME_SECONDS = 0.01  # of extractors of filter banks, which have no hop_length (AST, Speech2Text)
