"""Turns amounts of the elements that a model reads into attributions of words, pixels, moments and frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...configuration import DOCUMENT
from ...processing import PlaitProcessor
from ...processing.audio import read_waveform
from ...processing.images import read_image
from ..data.media import Row, list_present
from .encoding import EncodedRows, Part
from .geometry import ImageMap, find_image_map
from .parts import find_present_elements, find_time_axis
from .results import Attribution
from .video_times import find_frame_times


class AttributionFormatter:
    """Formats the amounts of rows; keeps the maps of image sizes that it has found.

    segments: of an audio clip at most.
    """

    def __init__(self, processor: PlaitProcessor, segments: int) -> None:
        self.processor, self.segments = processor, segments
        self.maps: dict[tuple[str, int, int], ImageMap] = {}

    def format_part(self, encoded: EncodedRows, part: Part, amounts: Tensor) -> dict[str, Attribution]:
        """Returns the attributions of one part of one row by name: several items are "image.0", "image.1" and so on.

        amounts: of the elements of the part's input, without channels.
        """
        if part.modality == "text":
            words = encoded.words[part.name][0]
            kept = amounts[: len(words.tokens)].double().cpu()
            owners = words.tokens.remainder(len(words.words) + 1)  # that of no word is the last
            values = torch.zeros(len(words.words) + 1, dtype=torch.double).index_add_(0, owners, kept)
            return {part.name: Attribution("text", to_array(values[:-1]), words=words.words, spans=words.spans)}
        form = {"image": self.format_image, "audio": self.format_audio, "video": self.format_video}[part.modality]
        items = list_items_of(encoded.rows[0], part)
        found = [form(encoded, part, place, item, amounts[place]) for place, item in enumerate(items)]
        if len(found) == 1:
            return {part.name: found[0]}
        return {f"{part.name}.{place}": one for place, one in enumerate(found)}

    def format_image(self, encoded: EncodedRows, part: Part, place: int, item: Any, amounts: Tensor) -> Attribution:
        """Returns the map over an image as it was given; amounts: (height, width)."""
        image = read_image(item)
        found = self.find_map("image", image.height, image.width)
        return Attribution("image", found.restore(amounts.double().cpu().numpy()).astype(np.float32))

    def find_map(self, modality: str, height: int, width: int) -> ImageMap:
        """Returns the map of images of this size."""
        key = (modality, height, width)
        if key not in self.maps:
            self.maps[key] = find_image_map(self.processor.require_part(modality, modality), height, width)
        return self.maps[key]

    def format_audio(self, encoded: EncodedRows, part: Part, place: int, item: Any, amounts: Tensor) -> Attribution:
        """Returns the amounts of a clip's segments, and for spectrograms the map (frequency, time)."""
        extractor: Any = self.processor.require_part("audio", "audio")
        value = encoded.inputs[part.input][0]
        axis = find_time_axis(part, value)
        present = find_present_elements(encoded, part, value.shape[axis])[place]
        seconds = len(read_waveform(item, None, int(extractor.sampling_rate))) / extractor.sampling_rate
        step = find_element_seconds(extractor, part, value.ndim, seconds, int(present.sum()))
        count = max(1, min(int(present.sum()), round(seconds / step)))
        lines = amounts.double().cpu()
        lines = lines[None] if lines.ndim == 1 else lines.movedim(axis - 1, -1)
        line, length = lines.sum(dim=0), min(self.segments, count)
        edges = torch.linspace(0, count, length + 1).round().long().tolist()
        edges[-1] = len(line)  # the padding of the last segment belongs to it
        values = torch.stack([line[first:past].sum() for first, past in zip(edges, edges[1:], strict=False)])
        times = np.asarray([*edges[:-1], count], dtype=np.float32) * np.float32(step)
        maps = to_array(lines[:, :count]) if value.ndim == 3 else None
        return Attribution("audio", to_array(values), times=times, maps=maps)

    def format_video(self, encoded: EncodedRows, part: Part, place: int, item: Any, amounts: Tensor) -> Attribution:
        """Returns the amounts of a video's frames, and their maps; amounts: (frames, height, width)."""
        frames = find_present_elements(encoded, part, len(amounts))[place]
        maps = amounts[frames.to(amounts.device)].double().cpu()
        times = find_frame_times(self.processor, item, len(maps))
        return Attribution("video", to_array(maps.sum(dim=(1, 2))), times=times, maps=to_array(maps))


def list_items_of(row: Row, part: Part) -> Sequence[Any]:
    """Returns the items of a row's part, as they were given."""
    return list_present({part.modality: row[DOCUMENT]} if part.name == DOCUMENT else row, part.modality)


def to_array(values: Tensor) -> np.ndarray:
    """Returns a tensor as a float32 array."""
    return values.float().numpy()


def find_element_seconds(extractor: Any, part: Part, dimensions: int, seconds: float, count: int) -> float:
    """Returns the seconds between two elements of a clip along time: samples of a waveform, or frames."""
    if part.input.endswith("input_values") and dimensions == 2:
        return 1 / extractor.sampling_rate
    hop = getattr(extractor, "hop_length", None)
    if hop is not None:
        return hop / extractor.sampling_rate
    return 0.01 if part.input.endswith("input_values") else seconds / count
