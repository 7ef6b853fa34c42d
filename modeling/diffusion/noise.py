"""The noise that images are generated from: each image has a seed of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor


def build_generators(given: torch.Generator | Sequence[torch.Generator] | None, images: int) -> list[torch.Generator]:
    """Builds a generator for each image, on the CPU. Its seed is drawn in turn from the given one (None: from torch's
    own) or from the image's own of a list: so an image depends on neither the batch nor the device, and batches in
    turn give with one generator what a single batch of all their rows gives.

    Raises ValueError for a list of another length than the number of images, and TypeError for anything else.
    """
    sources = list(given) if isinstance(given, Sequence) else [given] * images
    if len(sources) != images:
        raise ValueError(f"{len(sources)} generators for {images} images: pass one, or one per image")
    wrong = next((each for each in sources if not isinstance(each, torch.Generator | None)), None)
    if wrong is not None:
        raise TypeError(f"generator is a {type(wrong).__name__}: pass torch.Generator().manual_seed(seed)")
    return [torch.Generator().manual_seed(draw_seed(source)) for source in sources]


def draw_seed(source: torch.Generator | None) -> int:
    """Draws a seed, below 2^62."""
    device = "cpu" if source is None else source.device
    return int(torch.randint(2**62, (), generator=source, device=device))


def draw_noise(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Draws standard normal numbers of a shape from each generator, (generators, *shape), float32 on the CPU."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])
