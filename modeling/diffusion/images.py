"""Images between Pillow and tensors of values from -1 to 1."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pil_images(images: Tensor) -> list[Image.Image]:
    """Turns images, (batch, channels, height, width) with values from -1 to 1, into Pillow images, grey for one channel
    and RGB for three; values beyond are clipped."""
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    arrays = [image.permute(1, 2, 0).numpy() for image in pixels]
    return [Image.fromarray(np.ascontiguousarray(each[..., 0] if each.shape[2] == 1 else each)) for each in arrays]
