"""The config of an autoencoder, between images and the latents that a denoiser works on, and the shape of images."""

from typing import Any, ClassVar, NamedTuple

from huggingface_hub.dataclasses import strict

from .base import PlaitBaseConfig
from .cnn import Sizes

# the classes of diffusers, and the key of their config that has a width for each resolution
DIFFUSERS_WIDTHS = {"AutoencoderKL": "block_out_channels", "AutoencoderTiny": "encoder_block_out_channels"}


class ImageShape(NamedTuple):
    """The shape of the images that a model generates, in pixels, for a denoiser with patches of `patch_size` on latents
    that are `downsampling` times smaller."""

    channels: int
    height: int
    width: int
    patch_size: int
    downsampling: int = 1

    @property
    def multiple(self) -> int:
        """What the height and width of any image are multiples of."""
        return self.patch_size * self.downsampling

    @property
    def rule(self) -> str:
        """The multiple, as errors name it."""
        if self.downsampling == 1:
            return f"patch_size {self.patch_size}"
        if self.patch_size == 1:
            return f"the autoencoder's downsampling {self.downsampling}"
        return f"{self.multiple} (patch_size {self.patch_size} times the autoencoder's downsampling)"


@strict
class PlaitAutoencoderConfig(PlaitBaseConfig):
    """The config of a convolutional autoencoder: images of `num_channels` to latents of `latent_channels` (Rombach et
    al. 2022, https://arxiv.org/abs/2112.10752).

    `hidden_sizes` has the width of each level, from the pixels on; from one level to the next, height and width are
    halved. A level has `depth` residual layers; group norms have groups of `group_size` channels. `kl_weight` is that
    of the latents' divergence from the standard normal in the loss of training (see `PlaitForImageAutoencoding`).

    `diffusers_config`, the config of diffusers' AutoencoderKL or AutoencoderTiny with its `_class_name`, wraps one of
    those in place of our own: the other fields then follow from it.

    Raises:
        ValueError: no level; a width that is no multiple of the group size; a number below its minimum; a
            diffusers_config of another class, or without its sizes.
    """

    model_type = "plait_autoencoder"
    base_config_key = "autoencoder_config"
    saved_if_set: ClassVar[tuple[str, ...]] = ("diffusers_config",)

    num_channels: int = 3
    latent_channels: int = 4
    hidden_sizes: Sizes = (32, 64, 128)
    depth: int = 1
    group_size: int = 8
    kl_weight: float | int = 1e-6
    diffusers_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.diffusers_config is not None:
            self._follow(self.diffusers_config)
        self.hidden_sizes = list(self.hidden_sizes)
        super().__post_init__(**kwargs)
        self._check_sizes()

    @property
    def downsampling(self) -> int:
        """The pixels of an image's side for each row or column of its latents."""
        return 2 ** (len(self.hidden_sizes) - 1)

    def _follow(self, content: dict[str, Any]) -> None:
        name = content.get("_class_name")
        if name not in DIFFUSERS_WIDTHS:
            raise ValueError(
                f"diffusers_config is of the class {name!r}: pass an autoencoder of {' or '.join(DIFFUSERS_WIDTHS)}"
            )
        absent = [key for key in (DIFFUSERS_WIDTHS[name], "in_channels", "latent_channels") if key not in content]
        if absent:
            raise ValueError(f"diffusers_config has no {absent[0]}: save the autoencoder with diffusers again")
        self.hidden_sizes = content[DIFFUSERS_WIDTHS[name]]
        self.num_channels, self.latent_channels = content["in_channels"], content["latent_channels"]

    def _check_sizes(self) -> None:
        least = {"num_channels": 1, "latent_channels": 1, "depth": 1, "group_size": 1, "kl_weight": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least {low}")
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes is empty: give the width of each level, at least of one")
        wrong = [width for width in self.hidden_sizes if width < 1 or width % self.group_size]
        if self.diffusers_config is None and wrong:
            raise ValueError(f"hidden_sizes has {wrong[0]}, which is no multiple of group_size {self.group_size}")
