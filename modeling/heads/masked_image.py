"""Masked image modelling: some patches of an image are hidden, and their pixels are predicted."""

import copy
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from ...configuration import PlaitConfig, PlaitVisionConfig, width_of
from ..core.layers import SelfInitializing
from ..towers.patches import to_height_width
from ..towers.registry import build_tower

CLASS_TOKEN_COUNTS = (0, 1, 2)  # the numbers of tokens that a wrapped tower may put before its patches


class PatchGrid(NamedTuple):
    """How a tower splits an image: height and width of a patch in pixels, and the number of tokens before the first
    patch."""

    height: int
    width: int
    first: int


def find_patches(config: PreTrainedConfig) -> PatchGrid:
    """Returns the patches of an image tower; for a wrapped tower they follow from the number of its tokens.

    Raises ValueError for a tower without an `image_size`, or whose tokens are no grid over the image.
    """
    if isinstance(config, PlaitVisionConfig):
        return PatchGrid(*to_height_width(config.patch_size), config.class_tokens)
    own = getattr(config, "vision_config", config)  # a checkpoint with a text tower too keeps it in vision_config
    if getattr(own, "image_size", None) is None:
        raise ValueError(
            f"masked_image needs an image tower with an image_size, but a {config.model_type} has none: "
            "use another image tower, or another objective"
        )
    height, width = to_height_width(own.image_size)
    count = count_tokens(config, (height, width), getattr(own, "num_channels", 3))
    for first in CLASS_TOKEN_COUNTS:
        rows = isqrt(max(count - first, 0) * height // width)
        columns = (count - first) // rows if rows else 0
        if columns and rows * columns == count - first and not height % rows and not width % columns:
            return PatchGrid(height // rows, width // columns, first)
    raise ValueError(
        f"masked_image needs an image tower whose tokens are a grid over the image, but this {config.model_type} makes "
        f"{count} tokens of {height} x {width} pixels: use another image tower, or another objective"
    )


def count_tokens(config: PreTrainedConfig, size: tuple[int, int], channels: int) -> int:
    """Counts the tokens of an image of this size (height and width in pixels) by running the tower on the meta
    device."""
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    with torch.device("meta"), torch.no_grad():
        tower = build_tower(config, "image").eval()
        return tower(pixel_values=torch.empty(1, channels, *size)).last_hidden_state.shape[1]


class MaskedImageHead(SelfInitializing):
    """Hides patches and predicts their pixels from the tower's tokens by one linear layer (SimMIM, Xie et al. 2022,
    https://arxiv.org/abs/2111.09886, section 3):

        L = 1 / |M| sum over masked patches i of mean over pixels j of (W y_i + b - x_i)_j^2

    A learned patch of pixels replaces each hidden one: in a ViT its linear patch embedding is the mask token, and it
    works for convolutional towers too. With `config.norm_pix_loss` the targets are normalized pixels of the patch,
    (x_i - mean) / standard deviation (MAE, He et al. 2022, https://arxiv.org/abs/2111.06377, section 3,
    "Reconstruction target"; so is the squared error).

    Raises:
        ValueError: no image tower, or one whose tokens are no grid over the image.
    """

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__()
        vision = config.vision_config
        if vision is None:
            raise ValueError("masked_image needs an image tower, and this config has none: set vision_config")
        self.patches, self.ratio, self.normalised = find_patches(vision), config.image_mask_ratio, config.norm_pix_loss
        self.channels = getattr(getattr(vision, "vision_config", vision), "num_channels", 3)
        self.mask_patch = nn.Parameter(torch.empty(self.channels, self.patches.height, self.patches.width))
        self.prediction = nn.Linear(width_of(vision, "image"), self.mask_patch.numel())

    def init_weights(self, std: float) -> None:
        """Initializes the learned patch from a normal distribution."""
        init.normal_(self.mask_patch, std=std)

    def draw_mask(self, images: Tensor) -> Tensor:
        """Samples the mask, (images, patches), True for a hidden patch: `image_mask_ratio` of each image's patches,
        uniformly without replacement (MAE, section 3, "Masking"). In eval mode it is the same in every call.

        images: (images, channels, height, width).
        """
        rows, columns = self.compute_grid(images)
        hidden = min(max(round(self.ratio * rows * columns), 1), max(rows * columns - 1, 1))
        shape = (len(images), rows * columns)
        if self.training:
            noise = torch.rand(shape, device=images.device)
        else:
            noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(images.device)
        return noise.argsort(dim=1).argsort(dim=1) < hidden

    def hide_patches(self, images: Tensor, masked: Tensor) -> Tensor:
        """Replaces the patches that are True in masked: (images, patches) in images: (images, channels, height,
        width)."""
        rows, columns = self.compute_grid(images)
        if masked.shape != (len(images), rows * columns):
            raise ValueError(
                f"bool_masked_pos is {tuple(masked.shape)} for {len(images)} images of {rows} x {columns} patches: "
                "pass a mask of shape (images, patches)"
            )
        hidden = masked.view(-1, 1, rows, columns).bool()
        hidden = hidden.repeat_interleave(self.patches.height, 2).repeat_interleave(self.patches.width, 3)
        return torch.where(hidden, self.mask_patch.tile(1, rows, columns).to(images.dtype), images)

    def forward(self, tokens: Tensor | None, images: Tensor, masked: Tensor) -> Tensor:
        """Computes the loss, a scalar; without tokens, returns the images with hidden patches (see `hide_patches`): a
        call of the module, so that an adapter or offloading reaches the learned patch.

        tokens: (images, tokens, width), the tower's output for the masked images; images: (images, channels, height,
        width), without the mask; masked: (images, patches), True for a hidden patch. Raises ValueError if the tower did
        not make one token of each patch.
        """
        if tokens is None:
            return self.hide_patches(images, masked)
        first, patches = self.patches.first, masked.shape[1]
        if tokens.shape[1] != first + patches:
            raise ValueError(
                f"images of {tuple(images.shape[-2:])} pixels have {patches} patches, but the tower made "
                f"{tokens.shape[1]} tokens of each ({first} before the patches): resize them to the tower's image_size"
            )
        masked = masked.bool()
        predicted = self.prediction(tokens[:, first:][masked]).float()
        return F.mse_loss(predicted, self.compute_targets(images)[masked])

    def compute_targets(self, images: Tensor) -> Tensor:
        """Computes the pixels to predict, (images, patches, pixels of a patch), normalized with `norm_pix_loss`."""
        rows, columns = self.compute_grid(images)
        cut = images.float().unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # (n, c, rows, h, columns, w)
        pixels = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        if not self.normalised:
            return pixels
        return (pixels - pixels.mean(dim=-1, keepdim=True)) / (pixels.var(dim=-1, keepdim=True) + 1e-6).sqrt()

    def compute_grid(self, images: Tensor) -> tuple[int, int]:
        """Returns the rows and columns of patches in an image. Raises ValueError for images of a size that is not a
        whole number of patches."""
        height, width = images.shape[-2:]
        if height % self.patches.height or width % self.patches.width:
            raise ValueError(
                f"an image of {height} x {width} pixels is not a whole number of patches of {self.patches.height} x "
                f"{self.patches.width}: resize it to a multiple"
            )
        return height // self.patches.height, width // self.patches.width
