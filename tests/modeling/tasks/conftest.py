"""A batch for every objective of pretraining."""

import pytest
import torch
from torch import Tensor

ROWS, LENGTH, PATCHES = 4, 7, 4


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Ragged texts with hidden tokens, captions and pictures with hidden patches; all rows differ."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(LENGTH)[None] < torch.tensor([7, 4, 5, 6])[:, None]).long()
    ids = torch.randint(4, 40, (ROWS, LENGTH), generator=generator) * mask
    hidden = (torch.arange(LENGTH) % 3 == 1) & (mask == 1)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.randn(ROWS, 3, 16, 16, generator=generator),
        "input_ids_masked": ids.masked_fill(hidden, 3),
        "mlm_labels": ids.masked_fill(~hidden, -100),
        "bool_masked_pos": torch.rand(ROWS, PATCHES, generator=generator).argsort(dim=1) < 2,
        "labels": ids.masked_fill(mask == 0, -100),
    }
