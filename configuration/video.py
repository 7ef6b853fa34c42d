"""The configs of video towers: frames through an image tower, and tubelets."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, PreTrainedConfig

from .base import LEFT_OUT, Resolved, Size
from .cnn import PlaitCNNConfig
from .tower import PlaitTowerConfig, PlaitVisionConfig
from .width import width_of

ImageConfig = Resolved[dict[str, Any] | PreTrainedConfig | None, PreTrainedConfig]


@strict
class PlaitVideoConfig(PlaitTowerConfig):
    """The config of a video tower that runs each frame through an image tower: `pixel_values_videos (clips, frames,
    channels, height, width)` to tokens. `image_config` is ours or any transformers config.

    `frame_pooling` makes one token of a frame, the `mean` of the image tower's tokens or the `first` of them; `none`
    keeps them all. `temporal` says how frames are joined: `transformer` adds a learned position for each of at most
    `num_frames` frames and lets all tokens of a clip attend to each other (the factorised encoder of Arnab et al. 2021,
    https://arxiv.org/abs/2103.15691, section 3.3, model 2); `mean` averages over the frames and ignores their order.
    `hidden_size` defaults to the image tower's.

    Raises ValueError for `temporal="mean"` with a `hidden_size` other than the image tower's.
    """

    model_type = "plait_video"
    base_config_key = "video_config"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {"image_config": PreTrainedConfig}

    image_config: ImageConfig = LEFT_OUT
    frame_pooling: Literal["mean", "first", "none"] = "mean"
    temporal: Literal["transformer", "mean"] = "transformer"
    num_frames: int = 32
    hidden_size: Size = LEFT_OUT
    num_hidden_layers: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        given: Any = self.image_config
        if not isinstance(given, PreTrainedConfig):
            fields = dict(given or {})
            model_type = fields.pop("model_type", PlaitVisionConfig.model_type)
            own = {config.model_type: config for config in (PlaitVisionConfig, PlaitCNNConfig)}
            self.image_config = (own.get(model_type) or CONFIG_MAPPING[model_type])(**fields)
        width = width_of(self.image_config, "image")
        self._fill(hidden_size=width)
        super().__post_init__(**kwargs)
        if self.temporal == "mean" and self.hidden_size != width:
            raise ValueError(f"hidden_size {self.hidden_size}: temporal='mean' keeps the image tower's {width}")

    @property
    def image_size(self) -> int | list[int] | None:
        """The image tower's image size in pixels, an int or [height, width]; None if its config has none."""
        return getattr(getattr(self.image_config, "vision_config", self.image_config), "image_size", None)

    @property
    def num_channels(self) -> int:
        """The image tower's number of channels; 3 if its config has none."""
        return getattr(getattr(self.image_config, "vision_config", self.image_config), "num_channels", 3)


@strict
class PlaitTubeletConfig(PlaitTowerConfig):
    """The config of a video tower over tubelets: `pixel_values_videos (clips, num_frames, channels, height, width)` to
    one token per tubelet, a patch of `patch_size` pixels in `tubelet_size` frames (Arnab et al. 2021, section 3.2).

    `position_type` is `learned`, or `sinusoidal` (a fixed table of sines and cosines). `class_tokens` is the number of
    learned tokens put first.
    """

    model_type = "plait_tubelet"
    base_config_key = "video_config"

    image_size: int | list[int] = 224
    patch_size: int | list[int] = 16
    num_channels: int = 3
    num_frames: int = 16
    tubelet_size: int = 2
    class_tokens: int = 0
    position_type: Literal["learned", "sinusoidal"] = "learned"

    @property
    def grid(self) -> tuple[int, int, int]:
        """The number of tokens along the frames, the height and the width."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        down, across = (self.patch_size,) * 2 if isinstance(self.patch_size, int) else self.patch_size
        return self.num_frames // self.tubelet_size, height // down, width // across
