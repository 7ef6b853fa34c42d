"""Long audio in windows: a clip longer than the audio tower reads is transcribed window by window (Radford et al. 2022,
https://arxiv.org/abs/2212.04356, section 4.5)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ...configuration import PlaitAudioConfig, PlaitConfig

FRAMES_PER_TOKEN = 2  # of the spectrogram, for a token of the tower and for a step of the timestamps (20 ms)
# arguments of `generate` that concern one call for one window
UNSUPPORTED_OPTIONS = ("decoder_input_ids", "decoder_inputs_embeds", "streamer", "return_dict_in_generate")


class LongAudio(NamedTuple):
    """Clips of which at least one is longer than a window. features: (batch, mel bins, frames); frames: the length of
    each row's clip, 0 without one; window: the number of frames that the tower reads."""

    features: Tensor
    frames: list[int]
    window: int

    @property
    def short_rows(self) -> list[int]:
        """The rows whose clip fits into one window."""
        return [row for row, count in enumerate(self.frames) if 0 < count <= self.window]

    @property
    def long_rows(self) -> list[int]:
        """The rows whose clip is longer."""
        return [row for row, count in enumerate(self.frames) if count > self.window]

    def select(self, rows: Sequence[int]) -> "LongAudio":
        """Returns these rows."""
        return self._replace(features=self.features[list(rows)], frames=[self.frames[row] for row in rows])

    def cut(self, rows: Sequence[int], starts: Sequence[int]) -> Tensor:
        """Returns the window that begins at `starts` of each of the rows, with zeros behind its clip: (rows, mel bins,
        window)."""
        return torch.stack([self.cut_row(row, start) for row, start in zip(rows, starts, strict=True)])

    def cut_row(self, row: int, start: int) -> Tensor:
        """Returns one row's window, (mel bins, window)."""
        found = self.features[row, :, start : min(start + self.window, self.frames[row])]
        return F.pad(found, (0, self.window - found.shape[-1]))


def count_window_frames(config: PlaitConfig) -> int | None:
    """Returns the number of frames that the audio tower of a speech model reads at once; None for a model with other
    towers, or whose tower has no limit."""
    tower: Any = config.audio_config
    if not isinstance(tower, PlaitAudioConfig) or tower.position_type == "none" or len(config.encoders) > 1:
        return None
    return FRAMES_PER_TOKEN * tower.max_source_positions


def find_long_audio(config: PlaitConfig, inputs: Mapping[str, Any]) -> LongAudio | None:
    """Returns the clips if one is longer than the tower reads; None if all fit, or a row has several clips."""
    features, window = inputs.get("input_features"), count_window_frames(config)
    if features is None or window is None or features.shape[-1] <= window:
        return None
    if features.ndim == 4:
        if features.shape[1] > 1:
            return None
        features = features[:, 0]
    mask = inputs.get("input_features_mask")
    mask = inputs.get("attention_mask") if mask is None else mask  # its name in transformers
    if mask is None:
        frames = [features.shape[-1]] * len(features)
    else:
        frames = mask.reshape(len(features), -1).sum(1).tolist()
    present = inputs.get("audio_present")
    if present is not None:
        frames = [count if there else 0 for count, there in zip(frames, present.any(1).tolist(), strict=True)]
    return LongAudio(features, frames, window)


def check_window_options(kwargs: Mapping[str, Any], returned: int | None) -> None:
    """Raises ValueError for an option of `generate` that long audio does not support."""
    given = [name for name in UNSUPPORTED_OPTIONS if kwargs.get(name) is not None and kwargs[name] is not False]
    if returned not in (None, 1):
        given.append(f"num_return_sequences={returned}")
    if given:
        raise ValueError(
            f"a clip is longer than the audio tower reads, and windows do not support {', '.join(given)}: leave it "
            "out, or pass clips of one window"
        )


def select_window_tokens(tokens: Sequence[int], end: int | Sequence[int] | None) -> list[int]:
    """Returns the generated tokens of one window before its end of sequence."""
    ends = {end} if isinstance(end, int) else set(end or ())
    first = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:first])


class WindowText(NamedTuple):
    """What is kept of a window: its tokens, and the number of frames after which the next window begins."""

    tokens: list[int]
    step: int


def select_finished_segments(tokens: list[int], first_timestamp: int | None, frames: int) -> WindowText:
    """Returns the tokens of the segments that a window finishes; the next window begins at the last timestamp, which
    an unfinished segment follows. Without a pair of timestamps, or timestamps at all, the window is kept whole.

    frames: those of the clip in this window.
    """
    if first_timestamp is None:
        return WindowText(tokens, frames)
    times = [token >= first_timestamp for token in tokens]
    pairs = [place for place in range(1, len(times)) if times[place - 1] and times[place]]
    if not pairs or times[-2:] == [False, True]:
        return WindowText(tokens, frames)
    step = FRAMES_PER_TOKEN * (tokens[pairs[-1] - 1] - first_timestamp)
    return WindowText(tokens[: pairs[-1] + 1], step or frames)


def generate_windows(
    write: Callable[[Tensor, Tensor], list[list[int]]], audio: LongAudio, prompts: Tensor, first_timestamp: int | None
) -> list[list[int]]:
    """Generates the text of each row window by window, and returns its tokens, timestamps included.

    write: returns the tokens of the text of each window, (rows, mel bins, window), behind its prompt, (rows, tokens);
    prompts: (batch, tokens), with which each window's text begins; first_timestamp: the token of 0 seconds, None if the
    model generates no timestamps. The windows of all rows that are not at their end are one batch.
    """
    starts, texts = [0] * len(audio.frames), [list[int]() for _ in audio.frames]
    while rows := [row for row, start in enumerate(starts) if start < audio.frames[row]]:
        windows = audio.cut(rows, [starts[row] for row in rows])
        for row, tokens in zip(rows, write(windows, prompts[rows]), strict=True):
            frames = min(audio.window, audio.frames[row] - starts[row])
            kept = select_finished_segments(tokens, first_timestamp, frames)
            texts[row] += kept.tokens
            starts[row] += kept.step
    return texts


def pad_texts(texts: Sequence[Sequence[int]], padding: int | None, like: Tensor) -> Tensor:
    """Returns the rows' tokens as (batch, length), padded on the right."""
    rows = [torch.tensor(list(text), dtype=torch.long, device=like.device) for text in texts]
    return pad_sequence(rows, batch_first=True, padding_value=padding or 0)
