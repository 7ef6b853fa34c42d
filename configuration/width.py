"""The width of a tower's tokens, read from its config."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig

from .modalities import CONFIG_FIELDS


def round_channels(channels: float, divisor: int, least: int) -> int:
    """Returns channels rounded to a multiple of `divisor`, at least `least`, at most 10 % below (as MobileNet does)."""
    multiple = max(least, int(channels + divisor / 2) // divisor * divisor)
    return multiple + divisor if multiple < 0.9 * channels else multiple


def compute_mobilenet_v2_width(config: PreTrainedConfig) -> int:
    """Returns the width of MobileNetV2's last feature map."""
    if config.finegrained_output and config.depth_multiplier < 1:
        return 1280
    return round_channels(round(1280 * config.depth_multiplier), config.depth_divisible_by, config.min_depth)


# families whose tokens have a width other than `hidden_size` or the last of `hidden_sizes`
WIDTHS: dict[str, Callable[[Any], int]] = {
    "align_vision_model": lambda config: round_channels(
        config.out_channels[-1] * config.width_coefficient, config.depth_divisor, config.depth_divisor
    ),
    "cvt": lambda config: config.embed_dim[-1],
    "efficientnet": lambda config: config.hidden_dim,
    "focalnet": lambda config: config.embed_dim * 2 ** (len(config.depths) - 1),
    "mobilenet_v1": lambda config: max(int(1024 * config.depth_multiplier), config.min_depth),
    "mobilenet_v2": compute_mobilenet_v2_width,
    "mobilevit": lambda config: config.neck_hidden_sizes[-1],
    "mobilevitv2": lambda config: round_channels(512 * config.width_multiplier, 8, 8),
    "opt": lambda config: config.word_embed_proj_dim,
    "reformer": lambda config: 2 * config.hidden_size,
    "sam_hq_vision_model": lambda config: config.output_channels,
    "sam_vision_model": lambda config: config.output_channels,
    "swiftformer": lambda config: config.embed_dims[-1],
}


def width_of(config: PreTrainedConfig, modality: str | None = None) -> int:
    """Returns the width of the tokens of a tower with this config; in a config of two towers, of that of `modality`.

    Raises ValueError if the config does not say it.
    """
    part = CONFIG_FIELDS.get(modality or "", "")
    if part in config.sub_configs:
        return width_of(getattr(config, part), modality)
    if config.model_type in WIDTHS:
        return WIDTHS[config.model_type](config)
    # transformers' configs share no one name: these cover the other families, timm's among them
    width = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    width = width or getattr(config, "num_features", None)
    if not isinstance(width, int):
        raise ValueError(
            f"the config of a {config.model_type!r} model does not say how wide its tokens are: set hidden_size"
        )
    return width
