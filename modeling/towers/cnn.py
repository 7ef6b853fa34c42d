"""The convolutional image tower: an image to feature maps, the last of them to tokens."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ...configuration import PlaitCNNConfig
from ..core.pooling import mean_token
from ..core.precision import cast_to_module
from ..outputs import LayerChoice, TowerOutput, select_layers


class ConvolutionalTower(nn.Module):
    """The image tower of ResNet and EfficientNet-lite: images to tokens.

    In training, batch norm makes the rows of a batch depend on each other; a frozen tower stays in eval mode, where
    they do not.
    """

    def __init__(self, config: PlaitCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = CNN_STEMS[config.architecture](config)
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in build_stages(config))
        last, head = config.hidden_sizes[-1], config.head_size
        self.head = ConvNormAct(config, last, head) if head else nn.Identity()
        self.pool = CNN_POOLINGS[config.pooling]

    def forward(
        self, pixel_values: Tensor, output_hidden_states: LayerChoice = False, output_attentions: bool = False
    ) -> TowerOutput:
        """Encodes images, (images, channels, height, width), as one token for each place of the last feature map, row
        by row: (images, places, width).

        hidden_states are the feature maps (images, channels, height, width) of the stem and of each stage. There are no
        attentions. Raises ValueError for a wrong rank or number of channels.
        """
        self.check(pixel_values)
        x, maps = cast_to_module(pixel_values, self.stem), []
        wanted = select_layers(output_hidden_states, 1 + len(self.stages))
        for number, step in enumerate((self.stem, *self.stages)):
            x = step(x)
            maps.append(x if number in wanted else None)
        tokens = self.head(x).flatten(2).transpose(1, 2)
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        return TowerOutput(tokens, mask.long(), self.pool(tokens, mask), tuple(maps) if wanted else None)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the first convolution."""
        return self.stem.entry.convolution

    def set_input_embeddings(self, value: nn.Conv2d) -> None:
        """Replaces the first convolution."""
        self.stem.entry.convolution = value

    def check(self, pixel_values: Tensor) -> None:
        """Raises ValueError for a wrong rank or number of channels."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            shape = tuple(pixel_values.shape)
            raise ValueError(f"images have shape {shape}, not (images, {self.config.num_channels}, height, width)")


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's `same` padding: ceil(size / stride) places, odd pixels go below and right."""

    def forward(self, x: Tensor) -> Tensor:
        """Pads x, (batch, channels, height, width), and convolves it."""
        top, bottom = self.compute_padding(x, 0)
        left, right = self.compute_padding(x, 1)
        return super().forward(nn.functional.pad(x, (left, right, top, bottom)))

    def compute_padding(self, x: Tensor, side: int) -> tuple[int, int]:
        """Returns the pixels to add before and after the height (side 0) or the width (side 1)."""
        size, kernel, stride = x.shape[2 + side], self.kernel_size[side], self.stride[side]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


def build_centred_convolution(before: int, after: int, kernel_size: int, stride: int, groups: int) -> nn.Conv2d:
    """Builds a convolution with equal padding on all sides, without a bias."""
    padding = kernel_size // 2
    return nn.Conv2d(before, after, kernel_size, stride, padding=padding, groups=groups, bias=False)


def build_same_convolution(before: int, after: int, kernel_size: int, stride: int, groups: int) -> nn.Conv2d:
    """Builds a convolution with `same` padding, without a bias; it differs for an odd kernel only if stride > 1."""
    if stride == 1:
        return build_centred_convolution(before, after, kernel_size, stride, groups)
    return SameConv2d(before, after, kernel_size, stride, groups=groups, bias=False)


CONVOLUTIONS: dict[str, Callable[..., nn.Conv2d]] = {
    "resnet": build_centred_convolution,
    "efficientnet_lite": build_same_convolution,
}


class ConvNorm(nn.Module):
    """Computes norm(convolution(x)), with batch norm (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167)."""

    def __init__(
        self, config: PlaitCNNConfig, before: int, after: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.convolution = CONVOLUTIONS[config.architecture](before, after, kernel_size, stride, groups)
        self.normalization = nn.BatchNorm2d(after, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x, (batch, channels, height, width), to the new channels."""
        return self.normalization(self.convolution(x))


class ConvNormAct(ConvNorm):
    """Computes act(norm(convolution(x)))."""

    def __init__(self, config: PlaitCNNConfig, before: int, after: int, *sizes: int) -> None:
        super().__init__(config, before, after, *sizes)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """Maps x, (batch, channels, height, width), to the new channels."""
        return self.activation(super().forward(x))


class Stem(nn.Module):
    """The first layers of the tower: pool(entry(x))."""

    def __init__(self, entry: ConvNormAct, pool: nn.Module) -> None:
        super().__init__()
        self.entry = entry
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Maps images, (images, channels, height, width), to the first feature map."""
        return self.pool(self.entry(x))


def build_resnet_stem(config: PlaitCNNConfig) -> Stem:
    """Builds a 7x7 convolution and a max pooling, each with stride 2 (He et al. 2015)."""
    entry = ConvNormAct(config, config.num_channels, config.embedding_size, 7, 2)
    return Stem(entry, nn.MaxPool2d(3, stride=2, padding=1))


def build_efficientnet_lite_stem(config: PlaitCNNConfig) -> Stem:
    """Builds a 3x3 convolution with stride 2."""
    return Stem(ConvNormAct(config, config.num_channels, config.embedding_size, 3, 2), nn.Identity())


CNN_STEMS = {"resnet": build_resnet_stem, "efficientnet_lite": build_efficientnet_lite_stem}


class PlainLayer(nn.Module):
    """Computes parts(x), without a shortcut."""

    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        """Maps a feature map, (images, channels, height, width), to the next."""
        return self.parts(x)


class ResidualLayer(PlainLayer):
    """Computes act(shortcut(x) + parts(x)) (He et al. 2015, equations 1 and 2)."""

    def __init__(self, parts: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__(parts)
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Maps a feature map, (images, channels, height, width), to the next."""
        return self.activation(self.shortcut(x) + self.parts(x))


class LayerSize(NamedTuple):
    """The sizes of a layer: channels before and after, stride, kernel size, and the expansion of its inner channels."""

    before: int
    after: int
    stride: int
    kernel_size: int
    expand_ratio: int

    @property
    def keeps_shape(self) -> bool:
        """Whether the output has the shape of the input."""
        return self.before == self.after and self.stride == 1


def build_basic_layer(config: PlaitCNNConfig, size: LayerSize) -> nn.Module:
    """Builds a residual layer of two convolutions with the stage's kernel (He et al. 2015, figure 5 left)."""
    inner = size.after // size.expand_ratio
    return build_residual_layer(
        config,
        size,
        ConvNormAct(config, size.before, inner, size.kernel_size, size.stride),
        ConvNorm(config, inner, size.after, size.kernel_size),
    )


def build_bottleneck_layer(config: PlaitCNNConfig, size: LayerSize) -> nn.Module:
    """Builds a residual layer that narrows, convolves and widens (He et al. 2015, figure 5 right)."""
    inner = size.after // size.expand_ratio
    strides = (size.stride, 1) if config.downsample_in_bottleneck else (1, size.stride)
    return build_residual_layer(
        config,
        size,
        ConvNormAct(config, size.before, inner, 1, strides[0]),
        ConvNormAct(config, inner, inner, size.kernel_size, strides[1]),
        ConvNorm(config, inner, size.after),
    )


def build_residual_layer(config: PlaitCNNConfig, size: LayerSize, *parts: nn.Module) -> nn.Module:
    """Builds a residual layer of these parts, whose shortcut is the identity, or a projection if the shape changes."""
    projection = (config, size.before, size.after, 1, size.stride)
    shortcut = nn.Identity() if size.keeps_shape else ConvNorm(*projection)
    return ResidualLayer(nn.Sequential(*parts), shortcut, ACT2FN[config.hidden_act])


def build_inverted_layer(config: PlaitCNNConfig, size: LayerSize) -> nn.Module:
    """Builds a layer that widens, convolves each channel separately and narrows (Sandler et al. 2018, figure 3b); it
    has no shortcut if the shape changes."""
    inner = size.before * size.expand_ratio
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if size.expand_ratio > 1:
        parts["expand"] = ConvNormAct(config, size.before, inner)
    parts["depthwise"] = ConvNormAct(config, inner, inner, size.kernel_size, size.stride, inner)
    parts["project"] = ConvNorm(config, inner, size.after)
    layer = nn.Sequential(parts)
    return ResidualLayer(layer, nn.Identity(), nn.Identity()) if size.keeps_shape else PlainLayer(layer)


CNN_LAYERS = {"basic": build_basic_layer, "bottleneck": build_bottleneck_layer, "inverted": build_inverted_layer}


def build_stages(config: PlaitCNNConfig) -> Iterator[list[nn.Module]]:
    """Yields the layers of each stage; the first layer of a stage changes the width and has the stride."""
    before = config.embedding_size
    columns = (config.hidden_sizes, config.depths, config.strides, config.kernel_sizes, config.expand_ratios)
    for after, depth, stride, kernel_size, expand_ratio in zip(*columns, strict=True):
        first = LayerSize(before, after, stride, kernel_size, expand_ratio)
        others = [first._replace(before=after, stride=1)] * (depth - 1)
        yield [CNN_LAYERS[config.layer_type](config, size) for size in (first, *others)]
        before = after


def skip_pooling(x: Tensor, mask: Tensor) -> None:
    return None


CNN_POOLINGS = {"mean": mean_token, "none": skip_pooling}
