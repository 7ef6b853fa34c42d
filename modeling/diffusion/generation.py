"""Generating images: what `PlaitForImageGeneration` adds to the denoiser."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..outputs import TowerOutput
from .condition import Condition, NullCondition
from .denoiser import PlaitDenoiser
from .flow import compute_velocity, space_times
from .sampling import sample


class ImageSampler(PreTrainedModel):
    """The method `generate_images` of a model with a denoiser."""

    denoiser: PlaitDenoiser
    null_condition: NullCondition
    encode_towers: Callable[..., dict[str, TowerOutput]]
    fuse_condition: Callable[..., Condition]

    @torch.no_grad()
    def generate_images(
        self,
        *,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        **inputs: Any,
    ) -> Any:
        """Generates an image for each row of the inputs."""
        settings = self.denoiser.config
        outputs = self.encode_towers(inputs)
        rows = len(next(iter(outputs.values())).mask)
        condition = self.null_condition.fill(self.fuse_condition(outputs, rows, {}))
        hidden = {name: torch.ones(rows, dtype=torch.bool, device=self.device) for name in outputs}
        null = self.null_condition.fill(self.fuse_condition(outputs, rows, hidden))
        null = null.pad(condition.mask.shape[1])

        def velocity(x: Tensor, times: Tensor) -> Tensor:
            if guidance_scale == 1:
                return self.predict_velocity(x, times, condition)
            both = Condition(torch.cat((condition.tokens, null.tokens)), torch.cat((condition.mask, null.mask)))
            with_condition, without = self.predict_velocity(torch.cat((x, x)), times.repeat(2), both).chunk(2)
            return without + guidance_scale * (with_condition - without)

        shape = (rows, settings.num_channels, *settings.height_width)
        start = torch.randn(shape, generator=generator).to(self.device)
        return sample(velocity, start, space_times(num_inference_steps, settings.time_mean)).clamp(-1, 1)

    def predict_velocity(self, noisy: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """Computes the velocity of noisy images, (batch, channels, height, width), at times, (batch,)."""
        prediction = self.denoiser(noisy, times, *condition).to(noisy.dtype)
        if self.denoiser.config.prediction == "velocity":
            return prediction
        return compute_velocity(prediction, noisy, times)
