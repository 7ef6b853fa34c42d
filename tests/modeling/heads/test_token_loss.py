"""The loss over a vocabulary: a plain head in chunks, any other head called as a module."""

import pytest
import torch
from torch import nn

from plait.modeling.heads.language_model import compute_token_loss

WIDTH, WORDS = 8, 11


class WrappedHead(nn.Module):
    """A head that is more than its weight, as an adapter makes it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.mark.parametrize("wrap", [lambda head: head, WrappedHead], ids=["plain", "wrapped"])
@pytest.mark.parametrize("wrong", [WORDS, -1, -101])
def test_a_label_outside_the_vocabulary_is_an_error_for_every_head(wrap: type, wrong: int) -> None:
    head = wrap(nn.Linear(WIDTH, WORDS))
    x, targets = torch.randn(2, 3, WIDTH), torch.tensor([[1, 2, -100], [0, 10, 4]])
    assert torch.isfinite(compute_token_loss(head, x, targets))
    targets[1, 1] = wrong
    with pytest.raises(ValueError, match=str(wrong)):
        compute_token_loss(head, x, targets)
