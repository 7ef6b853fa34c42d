"""Features of images from a pretrained image tower, for KID, FID and diversity."""

from collections.abc import Callable
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, PreTrainedModel

from ....modeling.backbone.model import PlaitModel
from ....modeling.composition.hub import read_model_type
from ....processing.processor import PlaitProcessor
from .arrays import Array, build_pil_images, read_images

TIMM = "timm_wrapper"  # the model type that transformers gives to checkpoints of timm


class ImageFeatures:
    """The features of images, (images, width) float32, that a pretrained image tower computes: its pooled vector, else
    the mean over its tokens.

        features = ImageFeatures.from_pretrained("facebook/dinov2-small")
        print(estimate_kid(features(generated), features(test)))

    Args:
        model: takes what the processor returns; its output has `pooler_output`, or else `last_hidden_state`, (images,
            tokens, width), and perhaps `mask`, (images, tokens).
        processor: the model's own, which gets 8-bit PIL images as `images=`.
        batch_size: images at a time.
    """

    def __init__(self, model: PreTrainedModel, processor: Callable[..., Any], batch_size: int = 64) -> None:
        self.model, self.processor, self.batch_size = model.eval(), processor, batch_size

    @classmethod
    def from_pretrained(
        cls, name: str | PathLike[str], *, device: Any = None, batch_size: int = 64, **options: Any
    ) -> Self:
        """Loads the image tower of any checkpoint: of plait, of a known family, of timm ("timm/resnet18.a1_in1k", with
        timm installed), or of another image model of transformers.

        Args:
            name: a Hub id or folder, with a `preprocessor_config.json` or a default from the tower's config.
            device: to run on; None: the CPU.
            batch_size: images at a time.
            options: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            OSError, ValueError: no usable image tower there, as in `PlaitModel.compose`.
        """
        if read_model_type(name, options) == TIMM:
            model: Any = AutoModel.from_pretrained(name, **options)
            return cls(model.to(device or "cpu"), AutoImageProcessor.from_pretrained(name, **options), batch_size)
        model = PlaitModel.compose(image=name, verbose=False, **options)
        return cls(model.to(device or "cpu"), PlaitProcessor.compose(image=name, **options), batch_size)

    def __call__(self, images: Array) -> np.ndarray:
        """Computes the features of images, (images, 1 or 3 channels, height, width) in -1..1, whatever their size: the
        processor resizes. Raises as `read_images`."""
        return torch.cat([self._compute(batch) for batch in read_images(images).split(self.batch_size)]).numpy()

    @torch.inference_mode()
    def _compute(self, images: Tensor) -> Tensor:
        shown = [image.convert("RGB") for image in build_pil_images(images)]
        inputs = self.processor(images=shown, return_tensors="pt").to(self.model.device)
        output = self.model(**inputs)
        if output.pooler_output is not None:
            return output.pooler_output.flatten(1).float().cpu()
        tokens, mask = output.last_hidden_state.float().cpu(), output.get("mask")
        weights = torch.ones(tokens.shape[:2]) if mask is None else mask.float().cpu()
        return torch.einsum("nl,nlw->nw", weights, tokens) / weights.sum(dim=1, keepdim=True)
