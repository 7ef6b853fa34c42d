"""Turns amounts of the elements that a model reads into attributions of words, pixels, moments and frames."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...processing import PlaitProcessor
from ...processing.images import read_image
from .encoding import EncodedRows, Part, find_time_axis, list_row_items
from .geometry import ImageMap, find_image_map
from .parts import find_present_elements
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
        items = list_row_items(encoded.rows[0], part)
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
        value = encoded.inputs[part.input][0]
        times = encoded.clips[part.name][0][place]
        lines = amounts.double().cpu()
        lines = lines[None] if lines.ndim == 1 else lines.movedim(find_time_axis(part, value) - 1, -1)
        lines = lines[:, : times.count]
        edges = torch.linspace(0, times.count, min(self.segments, times.count) + 1).round().long().tolist()
        values = torch.stack([lines[:, first:past].sum() for first, past in pairwise(edges)])
        seconds = np.asarray(edges, dtype=np.float32) * np.float32(times.step)
        return Attribution("audio", to_array(values), times=seconds, maps=to_array(lines) if value.ndim == 3 else None)

    def format_video(self, encoded: EncodedRows, part: Part, place: int, item: Any, amounts: Tensor) -> Attribution:
        """Returns the amounts of a video's frames, and their maps; amounts: (frames, height, width)."""
        frames = find_present_elements(encoded, part, len(amounts))[place]
        maps = amounts[frames.to(amounts.device)].double().cpu()
        times = find_frame_times(self.processor, item, len(maps))
        return Attribution("video", to_array(maps.sum(dim=(1, 2))), times=times, maps=to_array(maps))


def to_array(values: Tensor) -> np.ndarray:
    """Returns a tensor as a float32 array."""
    return values.float().numpy()
