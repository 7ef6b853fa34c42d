"""Made inputs of a model, of any number of rows, tokens and items, by its config: to trace it, and to check it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...configuration import (
    PlaitConfig,
    PlaitRNNConfig,
    PlaitSpectrogramConfig,
    PlaitTubeletConfig,
    PlaitVideoConfig,
    PlaitWaveformConfig,
)
from ...configuration.modalities import MODALITY_TABLE
from ..recipes.errors import RecipeError

Axes = dict[str, dict[int, str]]  # the dynamic axes of each input, by number


class SampleSize(NamedTuple):
    """The numbers of rows, of tokens of a text, of items (images, clips) of a row, and of cached tokens."""

    batch: int
    length: int
    items: int
    past: int = 0


# different numbers above 1, so that no axis is taken for another one or for a constant
TRACED = SampleSize(2, 5, 3, past=4)
CHECKED = (SampleSize(1, 3, 1), SampleSize(3, 7, 2, past=3), SampleSize(4, 1, 4, past=6))


class Sample(NamedTuple):
    """Inputs by name, and the dynamic axes of each."""

    inputs: dict[str, Tensor]
    axes: Axes


def make_tower_sample(config: PlaitConfig, tower: str, size: SampleSize, random: torch.Generator) -> Sample:
    """Makes the inputs of one tower, named as `forward` names those of its modality.

    Raises RecipeError for a tower whose inputs cannot be made by its config.
    """
    modality = config.sides.get(tower, tower)
    part: Any = config.towers.get(tower) or config.towers[modality]
    return MAKERS[modality](part, size, random)


def make_text_sample(part: Any, size: SampleSize, random: torch.Generator) -> Sample:
    """Makes `input_ids` and `attention_mask`, (batch, length), with padding behind all rows but the first, and
    `token_type_ids` for a tower with several segments."""
    lengths = torch.randint(1, size.length + 1, (size.batch, 1), generator=random)
    lengths[0] = size.length
    mask = (torch.arange(size.length)[None] < lengths).long()
    inputs = {"input_ids": make_ids(part, (size.batch, size.length), random), "attention_mask": mask}
    inputs["input_ids"] = torch.where(mask.bool(), inputs["input_ids"], getattr(part, "pad_token_id", None) or 0)
    if (getattr(part, "type_vocab_size", None) or 0) > 1:
        inputs["token_type_ids"] = (torch.arange(size.length)[None] >= lengths // 2).long() * mask
    return Sample(inputs, {name: {0: "batch", 1: "length"} for name in inputs})


def make_ids(part: Any, shape: tuple[int, ...], random: torch.Generator, *unused: int | None) -> Tensor:
    """Makes random token ids of a vocabulary, none of which is its padding or one of `unused`."""
    ids = torch.randint(0, part.vocab_size, shape, generator=random)
    for wrong in (*unused, getattr(part, "pad_token_id", None)):
        ids = torch.where(ids == (-1 if wrong is None else wrong), (ids + 1) % part.vocab_size, ids)
    return ids


def make_image_sample(part: Any, size: SampleSize, random: torch.Generator) -> Sample:
    """Makes `pixel_values`, (batch, images, channels, height, width), of the tower's image size."""
    vision = getattr(part, "vision_config", part)
    shape = (getattr(vision, "num_channels", 3), *to_pair(find_image_size(vision)))
    return make_items("image", "pixel_values", shape, {}, size, random)


def find_image_size(part: Any) -> int | list[int]:
    """Returns the image size of a tower in pixels; raises RecipeError for a config without one."""
    found = getattr(part, "image_size", None)
    if found is None:
        raise RecipeError(
            f"the {type(part).__name__} of a tower has no image_size, by which its images are made: set it in the "
            "config to the size that the processor makes"
        )
    return found


def to_pair(size: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    """Returns height and width of a size given as one number or as both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def make_audio_sample(part: Any, size: SampleSize, random: torch.Generator) -> Sample:
    """Makes `input_features` or `input_values` of clips, as the tower reads them."""
    if isinstance(part, PlaitRNNConfig):
        raise RecipeError(
            f"a recurrent audio tower ({part.rnn_type}) packs its clips by their lengths, on which no graph can "
            "depend: it cannot be exported"
        )
    if isinstance(part, PlaitWaveformConfig):
        samples = part.receptive_field * (size.length + 2)
        return make_items("audio", "input_values", (samples,), {2: "samples"}, size, random)
    if isinstance(part, PlaitSpectrogramConfig):
        return make_items("audio", "input_values", (part.max_length, part.num_mel_bins), {}, size, random)
    bins = getattr(part, "num_mel_bins", None)
    if bins is None:
        raise RecipeError(
            f"the audio of {type(part).__name__} cannot be made by its config: num_mel_bins is missing, only plait's"
            " own audio towers can be exported"
        )
    return make_items("audio", "input_features", (bins, 2 * part.max_source_positions), {}, size, random)


def make_video_sample(part: Any, size: SampleSize, random: torch.Generator) -> Sample:
    """Makes `pixel_values_videos`, (batch, clips, frames, channels, height, width)."""
    fixed = isinstance(part, PlaitTubeletConfig) or not isinstance(part, PlaitVideoConfig)
    frames = part.num_frames if fixed else min(part.num_frames, size.length + 1)
    shape = (frames, getattr(part, "num_channels", 3), *to_pair(find_image_size(part)))
    return make_items("video", "pixel_values_videos", shape, {} if fixed else {2: "frames"}, size, random)


def make_items(
    modality: str, name: str, shape: tuple[int, ...], axes: dict[int, str], size: SampleSize, random: torch.Generator
) -> Sample:
    """Makes the items of every row, (batch, items, *shape), of which some but the first are absent."""
    items, present = {"image": "images"}.get(modality, "clips"), MODALITY_TABLE[modality].present_input
    values = torch.randn(size.batch, size.items, *shape, generator=random)
    is_present = torch.rand(size.batch, size.items, generator=random) < 0.7
    is_present[:, 0] = True
    both = {0: "batch", 1: items}
    return Sample({name: values, present: is_present}, {name: both | axes, present: both})


MAKERS: Mapping[str, Callable[[Any, SampleSize, torch.Generator], Sample]] = {
    "text": make_text_sample,
    "image": make_image_sample,
    "audio": make_audio_sample,
    "video": make_video_sample,
}


def make_encoder_sample(config: PlaitConfig, size: SampleSize, random: torch.Generator) -> Sample:
    """Makes the inputs of all towers of a model, and of a decoder alone those of its text."""
    inputs: dict[str, Tensor] = {}
    axes: Axes = {}
    for tower in config.encoders:
        sample = make_tower_sample(config, tower, size, random)
        inputs, axes = {**inputs, **sample.inputs}, {**axes, **sample.axes}
    if config.decoder_config is not None and not config.is_encoder_decoder:
        sample = make_text_sample(config.decoder_config, size, random)
        inputs, axes = {**sample.inputs, **inputs}, {**sample.axes, **axes}
    return Sample(inputs, axes)
