"""Training an autoencoder of images, on whose latents image generation can work."""

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from ...configuration import PlaitAutoencoderConfig, PlaitConfig
from ..backbone.pretrained import PlaitPreTrainedModel
from ..composition.autoencoder import AutoencoderArgument
from ..composition.image_autoencoding import compose_image_autoencoding
from ..diffusion.autoencoder import ImageAutoencoder, compute_reconstruction_losses
from ..diffusion.images import check_pixels
from ..outputs import PlaitImageAutoencodingOutput

IMAGES = "target_pixel_values"


class PlaitForImageAutoencoding(PlaitPreTrainedModel):
    """An autoencoder (`config.autoencoder_config`) that is trained to reconstruct images from random latents of their
    distribution q(z | x) (Kingma and Welling 2014, https://arxiv.org/abs/1312.6114): for images of n values

        loss = (|x - decode(z)|_1 + kl_weight KL(q(z | x) || N(0, 1))) / n.

    The weight of the divergence, `kl_weight`, is small (Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section
    3.1): it only keeps the latents in bounds. There is neither a perceptual nor an adversarial loss. Its folder is an
    `autoencoder` of `PlaitForImageGeneration.compose`.

    Raises:
        ValueError: a config without autoencoder, with towers, or with diffusers' AutoencoderTiny, which has no
            distribution.
    """

    has_towers = False

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        settings: Any = config.autoencoder_config
        check_autoencoder(config)
        self.main_input_name = IMAGES
        self.towers, self.fusion, self.decoder = nn.ModuleDict(), None, None  # the parts of `PlaitModel`: there is none
        self.autoencoder = ImageAutoencoder(settings).requires_grad_(True)
        self.post_init()

    @classmethod
    def compose(
        cls,
        autoencoder: AutoencoderArgument | None = None,
        *,
        autoencoder_config: PlaitAutoencoderConfig | Mapping[str, Any] | None = None,
        verbose: bool = True,
        dtype: Any = None,
        **options: Any,
    ) -> Self:
        """Composes a newly initialized autoencoder, or one with the weights of another, in evaluation mode.

        Args:
            autoencoder: to begin with: a folder or Hub id of plait's or diffusers' AutoencoderKL, or a ready one. None:
                a newly initialized one.
            autoencoder_config: fields of `PlaitAutoencoderConfig`, or a whole one, of a newly initialized one.
            verbose: print the table of parts.
            dtype: of the weights.
            options: options of loading, as in `PlaitModel.compose`, and further fields of `PlaitConfig`.

        Raises:
            ValueError: both arguments; an unusable checkpoint.
        """
        return compose_image_autoencoding(
            cls, autoencoder, autoencoder_config=autoencoder_config, verbose=verbose, dtype=dtype, **options
        )

    @can_return_tuple
    def forward(
        self, *, target_pixel_values: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> PlaitImageAutoencodingOutput:
        """Reconstructs images: in training from random latents, in evaluation mode from the mean.

        Args:
            target_pixel_values: (batch, channels, height, width), -1 to 1; height and width are multiples of the
                autoencoder's downsampling.
            num_items_in_batch: divides the summed loss, in place of the number of rows (gradient accumulation).

        Raises ValueError for images of another shape.
        """
        settings = self.autoencoder.config
        images = check_pixels(IMAGES, target_pixel_values, self.autoencoder.shape)
        posterior = self.autoencoder.compute_posterior(images)
        latents = posterior.draw() if self.training else posterior.mean
        reconstruction = self.autoencoder.coder.decode(latents).to(images.dtype)
        divergence = posterior.compute_divergence().to(images.dtype)
        losses = compute_reconstruction_losses(reconstruction, images, divergence, settings.kl_weight)
        loss = losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch
        return PlaitImageAutoencodingOutput(loss, reconstruction, latents, divergence)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the autoencoder's coder, which reads the images."""
        return self.autoencoder.coder

    def select_targets(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Returns a zero for each row: the loss is the mean over the rows."""
        images = inputs.get(IMAGES)
        return None if images is None else images.new_zeros(len(images)).long()


def check_autoencoder(config: PlaitConfig) -> None:
    """Raises ValueError for a config that `PlaitForImageAutoencoding` cannot use."""
    settings = config.autoencoder_config
    if settings is None:
        raise ValueError("this config has no autoencoder_config: compose the class with autoencoder_config={...}")
    if config.encoders or config.decoder_config is not None:
        raise ValueError("an autoencoder reads images alone, but this config has towers: leave them out")
    content = settings.diffusers_config or {}
    if content.get("_class_name") == "AutoencoderTiny":
        raise ValueError("AutoencoderTiny has no distribution of latents to train by: use an AutoencoderKL, or our own")
