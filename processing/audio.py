"""Reads audio clips of any format as mono waveforms of one sampling rate, and turns them into audio tower inputs."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import ASTFeatureExtractor, SequenceFeatureExtractor

from .errors import ROW_ERRORS, describe_error, name_error
from .images import convert_tensor, describe, read_file_content
from .limits import check_batch, check_ceiling, check_number

AUDIO_INSTALL_HINT = "install them with: pip install 'plait[audio]'"
FEATURE_NAMES = ("input_features", "input_values")
UNKNOWN_LENGTH = 2**62  # a number of samples that libsndfile gives a stream
STREAMED_SIZE = 2**32 - 2**16  # of a WAV file's samples, from which on a size says that it was not known
MAX_SAMPLES_PER_BYTE = 10_000  # digital silence in FLAC, the shortest code for sound, has about 5000
SMALL_CLIP = 2**26  # samples of which more are not allocated for a file that holds little but silence: 256 MiB
SOUND_SAMPLES_PER_BYTE = 200  # speech in Opus, the shortest code for sound that is not silence, has about 70
MAX_AMPLITUDE = 100  # float samples lie in -1..1, or a little beyond if normalised; larger ones are 16-bit integers


class AudioFeatures(NamedTuple):
    """The model inputs of a batch of clips.

    values: arrays by name, see `extract_features`; truncated: the first row with a clip that the feature extractor
    truncated, and the length of that clip in seconds (None: no clip was truncated).
    """

    values: dict[str, Any]
    truncated: tuple[int, float] | None


def collect_audio_rows(audio: Any) -> list[list[Any]]:
    """Returns one list of audio clips for every row; a clip may be None.

    A single clip is one row. In a list every entry is a row: a clip, None (no clip) or a list of clips.

    Raises:
        TypeError: a value that is not a clip; the message names its row.
        ValueError: an empty list, or a bare array of two dimensions, which may mean channels or rows.
    """
    if isinstance(audio, (np.ndarray, torch.Tensor)) and audio.ndim > 1:
        raise ValueError(
            f"audio: {describe(audio)} may be one clip of several channels or several clips: pass [clip] or list(clips)"
        )
    if is_audio_clip(audio):
        return [[audio]]
    if not isinstance(audio, Sequence):
        raise TypeError(
            f"audio: {describe(audio)} is neither a clip nor a list: pass a clip, or a list with a clip, None or a "
            "list of clips for every row"
        )
    if not audio:
        raise ValueError("audio is an empty list: pass one entry per row (None for a row without a clip)")
    return [collect_row_clips(row, entry) for row, entry in enumerate(audio)]


def collect_row_clips(row: int, entry: Any) -> list[Any]:
    """Returns the clips of one row; raises TypeError for a value that is not a clip."""
    if entry is None:
        return []
    clips = [entry] if is_audio_clip(entry) or not isinstance(entry, Sequence) else list(entry)
    for clip in clips:
        if clip is not None and not is_audio_clip(clip):
            raise TypeError(
                f"audio, row {row}: {describe(clip)} is not an audio clip; pass an array or tensor (samples) or "
                "(channels, samples), a path, the bytes of a file, None, or a list of these"
            )
    return clips


def is_audio_clip(value: Any) -> bool:
    """Returns whether a value is a single audio clip, decoded or not."""
    return isinstance(value, (np.ndarray, torch.Tensor, str, PathLike, bytes, Mapping))


def read_waveform(clip: Any, sampling_rate: float | None, target_rate: int) -> np.ndarray:
    """Returns the samples of a clip as one channel, (samples,) float32, at `target_rate` samples per second.

    Channels are averaged and integers scaled to -1..1. An array of two dimensions is (channels, samples) or (samples,
    channels): the smaller dimension is the channels. `sampling_rate` applies to an array; a file has its own.

    Raises:
        FileNotFoundError: no file at this path.
        ImportError: a file to decode, or a rate to resample, without the package for it.
        ValueError: an unreadable file, an array without a rate, a rate outside `LIMITS` that is not the target's, no
            samples, or NaN or infinite samples.
    """
    samples, rate = read_samples(clip, sampling_rate)
    if rate is None:
        raise ValueError(f"{describe(clip)} has no sampling rate: pass sampling_rate=... (samples per second)")
    if rate != target_rate:
        check_number("sampling_rate", rate)
    samples = resample(mix_to_mono(samples), rate, target_rate) if samples.size else samples
    if not samples.size:
        raise ValueError(f"{describe(clip)} has no samples: leave this clip out, or pass None")
    if not np.isfinite(samples).all():
        raise ValueError(f"{describe(clip)} has values that are NaN or infinite: pass finite samples")
    return samples


def read_samples(clip: Any, sampling_rate: float | None) -> tuple[np.ndarray, float | None]:
    """Returns raw samples and their rate, from an array, `datasets`' {"array", "sampling_rate"}, or a file."""
    if isinstance(clip, Mapping) and clip.get("array") is not None:
        own = clip.get("sampling_rate")
        return read_samples(np.asarray(clip["array"]), sampling_rate if own is None else own)
    if isinstance(clip, torch.Tensor):
        clip = convert_tensor(clip)
    if isinstance(clip, np.ndarray):
        return clip, sampling_rate
    return decode_audio(read_file_content(clip), describe(clip))


def decode_audio(content: bytes, name: str | None = None) -> tuple[np.ndarray, float]:
    """Decodes the bytes of an audio file, which errors call `name`: (samples, channels), and samples per second."""
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(f"audio files are read with soundfile and soxr; {AUDIO_INSTALL_HINT}") from error
    try:
        with soundfile.SoundFile(BytesIO(content)) as file:
            if file.frames >= UNKNOWN_LENGTH:
                raise ValueError("its header does not say how long it is, as in a stream: convert it, as by ffmpeg")
            samples = file.frames * file.channels
            if file.frames > MAX_SAMPLES_PER_BYTE * len(content):
                raise ValueError(f"its header announces {file.frames} samples in {len(content)} bytes: it is damaged")
            if samples > max(SMALL_CLIP, SOUND_SAMPLES_PER_BYTE * len(content)):
                raise ValueError(f"it announces {samples} samples in {len(content)} bytes: it is damaged, or silence")
            check_ceiling("audio_samples", samples, "it")
            check_wave_is_whole(content)
            return file.read(dtype="float32", always_2d=True), file.samplerate
    except Exception as error:  # decoders raise anything: their own errors, RuntimeError, MemoryError, TypeError, ...
        problem = describe_error(error)
        raise ValueError(f"{name or describe(content)} is not a readable audio file: {problem}") from error


def check_wave_is_whole(content: bytes) -> None:
    """Raises ValueError for a WAV file that ends before the samples that its header announces, which decoders read as a
    shorter clip."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return
    place = 12
    while place + 8 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        if content[place : place + 4] == b"data":
            held = len(content) - place - 8
            if held < size < STREAMED_SIZE:
                raise ValueError(f"its header announces {size} bytes of samples, but it holds {held}: it is cut off")
            return
        place += 8 + size + size % 2


def mix_to_mono(samples: np.ndarray) -> np.ndarray:
    """Returns the mean over channels: (samples,) in float32, about -1..1."""
    if samples.ndim not in (1, 2):
        raise ValueError(f"{describe(samples)} is not an audio clip: pass (samples) or (channels, samples)")
    samples = scale_to_float(samples)
    if samples.ndim == 2:
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    return samples.astype(np.float32)


def scale_to_float(samples: np.ndarray) -> np.ndarray:
    """Scales integers to -1..1 by the range of their type; returns floats unchanged."""
    if np.issubdtype(samples.dtype, np.unsignedinteger):
        middle = (np.iinfo(samples.dtype).max + 1) / 2
        return (samples - middle) / middle
    if np.issubdtype(samples.dtype, np.integer):
        return samples / -float(np.iinfo(samples.dtype).min)
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"{describe(samples)} does not hold audio samples: pass integers or floats")
    loudest = max(samples.max(initial=0), -samples.min(initial=0))
    if np.isfinite(loudest) and loudest > MAX_AMPLITUDE:
        raise ValueError(
            f"{describe(samples)} has values up to {loudest}, but floats must be within -1..1: pass 16-bit samples "
            "as int16"
        )
    return samples


def resample(samples: np.ndarray, rate: float, target_rate: int) -> np.ndarray:
    """Resamples a waveform from one rate to another (samples per second)."""
    if rate == target_rate:
        return samples
    check_ceiling("audio_samples", len(samples) * target_rate / rate, f"resampling from {rate} to {target_rate} Hz")
    try:
        import soxr
    except ImportError as error:
        raise ImportError(f"resampling from {rate} to {target_rate} Hz needs soxr; {AUDIO_INSTALL_HINT}") from error
    return soxr.resample(samples, rate, target_rate)


def extract_features(
    extractor: SequenceFeatureExtractor, rows: list[list[Any]], sampling_rate: float | None, options: dict[str, Any]
) -> AudioFeatures:
    """Runs the feature extractor on each clip separately, so that no clip depends on its neighbours.

    Returns `input_features` (batch, clips, mel bins, frames) or `input_values` (batch, clips, samples), depending on
    the extractor, with zeros for absent clips, and `audio_present` (batch, clips). Clips of different lengths are
    padded at the end; `input_features_mask` or `input_values_mask` (batch, clips, length) is then True for real ones.

    Raises:
        OSError, ImportError, ValueError: a clip that cannot be read or processed; the message names its row.
    """
    clip_at = {
        (row, place): clip for row, clips in enumerate(rows) for place, clip in enumerate(clips) if clip is not None
    }
    target_rate = int(extractor.sampling_rate)
    if sampling_rate != target_rate:
        check_number("sampling_rate", sampling_rate)
    waveforms = {
        place: read_row_waveform(place[0], clip, sampling_rate, target_rate) for place, clip in clip_at.items()
    }
    present = np.zeros((len(rows), max(1, *map(len, rows))), dtype=bool)
    for place in waveforms:
        present[place] = True
    arrays = {
        place: extract_clip_features(extractor, waveform, f"audio, row {place[0]}", options)
        for place, waveform in waveforms.items()
    }
    values = (
        stack_features(arrays, present, extractor.padding_value)
        if arrays
        else build_empty_features(extractor, present, options)
    )
    whole = options.get("truncation") is False
    return AudioFeatures(
        values | {"audio_present": present}, None if whole else find_overlong_clip(extractor, waveforms)
    )


def find_overlong_clip(
    extractor: SequenceFeatureExtractor, waveforms: Mapping[tuple[int, int], np.ndarray]
) -> tuple[int, float] | None:
    """Returns the first row with a clip longer than the extractor's limit (Whisper's 30 s, AST's about 10 s), and the
    length of that clip in seconds; None if every clip fits."""
    longest = find_max_samples(extractor)
    for (row, _), waveform in waveforms.items():
        if longest is not None and len(waveform) > longest:
            return row, len(waveform) / extractor.sampling_rate
    return None


def find_max_samples(extractor: SequenceFeatureExtractor) -> int | None:
    """Returns the number of samples of a clip that the extractor reads; None without a limit."""
    if isinstance(extractor, ASTFeatureExtractor):
        return extractor.max_length * int(extractor.sampling_rate) // 100  # a frame is 10 ms
    return getattr(extractor, "n_samples", None)


def find_min_samples(extractor: SequenceFeatureExtractor) -> int:
    """Returns the samples of one analysis window; a shorter clip must be padded with silence."""
    if isinstance(extractor, ASTFeatureExtractor):
        return int(extractor.sampling_rate) // 40  # 25 ms
    return getattr(extractor, "n_fft", 1)


def read_row_waveform(row: int, clip: Any, sampling_rate: float | None, target_rate: int) -> np.ndarray:
    """Reads the waveform of one clip; every error names the row."""
    try:
        return read_waveform(clip, sampling_rate, target_rate)
    except MemoryError as error:
        raise name_error(error, f"audio, row {row}", f"{describe(clip)}: {describe_error(error)}") from error
    except ROW_ERRORS as error:
        raise name_error(error, f"audio, row {row}") from error


def extract_clip_features(
    extractor: SequenceFeatureExtractor, waveform: np.ndarray, where: str, options: dict[str, Any]
) -> tuple[str, np.ndarray]:
    """Returns the name of the extractor's output and its values for one waveform, without a batch dimension."""
    family = type(extractor).__name__
    waveform = np.pad(waveform, (0, max(find_min_samples(extractor) - len(waveform), 0)))
    try:
        # the signature of the call differs between families
        values = extractor(  # pyright: ignore[reportCallIssue]
            waveform, sampling_rate=extractor.sampling_rate, return_tensors="np", **options
        )
    except Exception as error:
        raise ValueError(f"{where}: {family} failed on {describe(waveform)}: {describe_error(error)}") from error
    name = next((name for name in FEATURE_NAMES if name in values), None)
    if name is None:
        raise ValueError(
            f"{where}: {family} returns {', '.join(values)}, but one of {', '.join(FEATURE_NAMES)} is needed"
        )
    return name, np.asarray(values[name][0], dtype=np.float32)


def build_empty_features(
    extractor: SequenceFeatureExtractor, present: np.ndarray, options: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Returns zeros in the shape of one second of audio, for a batch without any clip."""
    name, values = extract_clip_features(
        extractor, np.zeros(int(extractor.sampling_rate), dtype=np.float32), "audio", options
    )
    return {name: np.zeros((*present.shape, *values.shape), dtype=np.float32)}


def stack_features(
    arrays: Mapping[tuple[int, int], tuple[str, np.ndarray]], present: np.ndarray, padding: float
) -> dict[str, np.ndarray]:
    """Stacks the features of all clips, padding shorter ones along the one dimension in which they differ."""
    name = next(iter(arrays.values()))[0]
    shapes = np.array([array.shape for _, array in arrays.values()])
    different = np.flatnonzero((shapes != shapes[0]).any(axis=0))
    if len(different) > 1:
        raise ValueError(
            f"audio: the clips' features have shapes {sorted(map(tuple, shapes.tolist()))}, which differ in more than "
            "their length: choose a feature extractor with a fixed number of bins"
        )
    check_batch((*present.shape, *shapes.max(axis=0)), "audio")
    values = np.zeros((*present.shape, *shapes.max(axis=0)), dtype=np.float32)
    if len(different):
        values[present] = padding
    for place, (_, array) in arrays.items():
        values[place][tuple(map(slice, array.shape))] = array
    if not len(different):
        return {name: values}
    mask = np.zeros((*present.shape, shapes.max(axis=0)[different[0]]), dtype=bool)
    for place, (_, array) in arrays.items():
        mask[place][: array.shape[different[0]]] = True
    return {name: values, f"{name}_mask": mask}
