"""Audio and video inputs of wrapped towers: their names in a family, and the mask of the family's tokens."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES

from .items import check_videos


def is_video_family(config: PreTrainedConfig) -> bool:
    """Returns whether transformers lists a family as a video family; some of them name their input `pixel_values`."""
    return config.model_type in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES


def disable_augmentation(model: PreTrainedModel) -> None:
    """Switches off the masking of features in training (SpecAugment): it fails on clips shorter than its mask."""
    model.config.apply_spec_augment = False


def rename_inputs(inputs: Mapping[str, Any], takes: frozenset[str]) -> dict[str, Any]:
    """Renames the inputs of an audio or video tower to the family's own names.

    takes: the arguments of the family's forward. Raises ValueError for videos of the wrong rank or with absent frames:
    these families read every frame.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    if "clip_mask" in given:
        given["attention_mask"] = given.pop("clip_mask").long()
    if "pixel_values_videos" in given:
        check_videos(given["pixel_values_videos"])
        present = given.pop("frame_mask", None)
        if present is not None and not bool(present.all()):
            raise ValueError(
                "this video tower reads all frames of a clip: sample the same number of every video (num_frames)"
            )
        if "pixel_values_videos" not in takes:
            given["pixel_values"] = given.pop("pixel_values_videos")
    return given


def compute_clip_mask(model: Any, tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns (clips, length), True for tokens that hold real samples, by the family's own strides; attention_mask:
    (clips, samples)."""
    return model._get_feature_vector_attention_mask(tokens.shape[1], attention_mask).bool()
