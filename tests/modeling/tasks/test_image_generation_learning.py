"""What image generation learns: images that it has seen often enough come back."""

import pytest
import torch
from torch import nn

from plait import PlaitForImageGeneration
from plait.configuration import PlaitTextConfig

STEPS, RATE = 300, 3e-3


@pytest.mark.slow
def test_eight_images_are_reproduced() -> None:
    """Within a root mean square of 0.05 of the range -1 to 1; the mean image alone is at 0.3."""
    torch.manual_seed(0)
    text = PlaitTextConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=0, vocab_size=16)
    model = PlaitForImageGeneration.compose(
        text=text,
        image_size=16,
        patch_size=4,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        denoiser_config={"condition_dropout": 0.0},
        verbose=False,
    )
    images = nn.functional.interpolate(torch.rand(8, 3, 4, 4) * 2 - 1, size=16, mode="bilinear")
    names = torch.arange(4, 12)[:, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 20, max(0.02, 2 * (1 - step / STEPS)))
        loss = model(input_ids=names.repeat(4, 1), target_pixel_values=images.repeat(4, 1, 1, 1)).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    drawn = model.eval().generate_images(
        input_ids=names, num_inference_steps=50, guidance_scale=1, generator=torch.Generator(), output_type="pt"
    )
    errors = (drawn - images).square().mean(dim=(1, 2, 3)).sqrt()
    assert (images - images.mean(dim=0)).square().mean().sqrt() > 0.3
    assert errors.max() <= 0.05
