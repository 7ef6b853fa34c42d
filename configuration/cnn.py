"""The config of a convolutional image tower."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .base import LEFT_OUT, PlaitBaseConfig, Size

Sizes = list[int] | tuple[int, ...]

# the factor by which the inside of a layer is narrower (inverted: wider) than its ends
_EXPAND_RATIOS = {"basic": 1, "bottleneck": 4, "inverted": 6}


@strict
class PlaitCNNConfig(PlaitBaseConfig):
    """The config of a convolutional image tower: `pixel_values (images, channels, height, width)` to one token per
    position of the last feature map. The defaults are ResNet-18 (He et al. 2015, https://arxiv.org/abs/1512.03385).

    `architecture` chooses stem and padding: `resnet` begins with a 7x7 convolution and a max pooling,
    `efficientnet_lite` with a 3x3 convolution, and pads as TensorFlow's `same` does. `embedding_size` is the stem's
    width. `hidden_sizes`, `depths` (layers), `strides` (of the first layer), `kernel_sizes` and `expand_ratios` have
    one number per stage. By default strides are 1, 2, 2, ..., kernels 3, and expansions 1 (`basic`: two convolutions),
    4 (`bottleneck`: 4 times narrower inside) or 6 (`inverted`: 6 times wider inside, with a depthwise convolution;
    Sandler et al. 2018, https://arxiv.org/abs/1801.04381). `downsample_in_bottleneck` puts a bottleneck's stride in its
    first convolution. `head_size` adds a 1x1 convolution at the end. `hidden_size`, the width of the last feature map,
    follows from these. `image_size` is in pixels, an int or [height, width]; images of other sizes are accepted too.
    `pooling` is `mean` over all positions, or `none`. `family` and `source_config` as in `PlaitTowerConfig`.

    Raises:
        ValueError: lists of unequal length; an even kernel; a `hidden_size` other than the last feature map's width.
    """

    model_type = "plait_cnn"
    base_config_key = "vision_config"

    architecture: Literal["resnet", "efficientnet_lite"] = "resnet"
    image_size: int | list[int] = 224
    num_channels: int = 3
    embedding_size: int = 64
    layer_type: Literal["basic", "bottleneck", "inverted"] = "basic"
    hidden_sizes: Sizes = (64, 128, 256, 512)
    depths: Sizes = (2, 2, 2, 2)
    strides: Sizes = ()
    kernel_sizes: Sizes = ()
    expand_ratios: Sizes = ()
    downsample_in_bottleneck: bool = False
    head_size: int | None = None
    hidden_size: Size = LEFT_OUT
    hidden_act: str = "relu"
    norm_eps: float = 1e-5
    pooling: Literal["mean", "none"] = "mean"
    family: str | None = None
    source_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        count = len(self.hidden_sizes)
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        self.strides = list(self.strides or [1] + [2] * (count - 1))
        self.kernel_sizes = list(self.kernel_sizes or [3] * count)
        self.expand_ratios = list(self.expand_ratios or [_EXPAND_RATIOS[self.layer_type]] * count)
        self._fill(hidden_size=self.head_size or self.hidden_sizes[-1])
        super().__post_init__(**kwargs)
        self._check_sizes()

    def _check_sizes(self) -> None:
        for name in ("depths", "strides", "kernel_sizes", "expand_ratios"):
            given = len(getattr(self, name))
            if given != len(self.hidden_sizes):
                raise ValueError(
                    f"{name} has {given} numbers, hidden_sizes {len(self.hidden_sizes)}: give one per stage"
                )
        if even := [size for size in self.kernel_sizes if size % 2 == 0]:
            raise ValueError(f"kernel_sizes must be odd, got {even[0]}")
        width = self.head_size or self.hidden_sizes[-1]
        if self.hidden_size != width:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not the width {width} of the last feature map: leave it out"
            )
