"""Sound and video in wrapped towers: how a family calls its input, and which of its tokens are there."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES

from .items import check_videos


def is_video_family(config: PreTrainedConfig) -> bool:
    """Whether transformers knows a family as one of videos; some of these call their input as image families do."""
    return config.model_type in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES


def disable_augmentation(model: PreTrainedModel) -> None:
    """Masking of features in training is left to the data: it fails on clips shorter than what it masks."""
    model.config.apply_spec_augment = False


def rename_inputs(inputs: Mapping[str, Any], takes: frozenset[str]) -> dict[str, Any]:
    """The inputs of a tower of sound or video by the family's own names.

    Raises ValueError for videos of the wrong rank or with frames that are not there: these families read all.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    if "clip_mask" in given:
        given["attention_mask"] = given.pop("clip_mask").long()
    if "pixel_values_videos" in given:
        check_videos(given["pixel_values_videos"])
        there = given.pop("frame_mask", None)
        if there is not None and not bool(there.all()):
            raise ValueError("this video tower reads all frames of a clip: sample as many of every video (num_frames)")
        if "pixel_values_videos" not in takes:
            given["pixel_values"] = given.pop("pixel_values_videos")
    return given


def compute_clip_mask(model: Any, tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """(clips, length), True where a token has samples, by the family's own strides; attention_mask: (clips,
    samples)."""
    return model._get_feature_vector_attention_mask(tokens.shape[1], attention_mask).bool()
