"""Rows of all processes, here of a single one: what is exchanged, padded and taken apart again."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, distributed, nn

from plait.modeling.core import distributed as rows
from plait.modeling.core.distributed import gather_equal_rows, gather_rows, pad_rows, trains_distributed, zero_with_grad


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of one process that exchanges as several would."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(rows, "is_distributed", lambda: True)
    yield
    distributed.destroy_process_group()


def made() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, 2), torch.arange(12).view(3, 2, 2), torch.randn(3, 4, 1), torch.rand(3) > 0.5]


@pytest.mark.usefixtures("process")
def test_tensors_of_any_type_and_shape_come_back() -> None:
    tensors = made()[:3]
    found = gather_rows(tensors)
    assert (found.start, found.processes) == (0, 1) and len(found.tensors) == 3
    for ours, given in zip(found.tensors, tensors, strict=True):
        assert torch.equal(ours, given) and ours.dtype == given.dtype and not ours.requires_grad
    empty = gather_rows([tensor[:0] for tensor in tensors])
    assert [tensor.shape for tensor in empty.tensors] == [(0, 2), (0, 2, 2), (0, 4, 1)]


@pytest.mark.usefixtures("process")
def test_gradients_of_floats_come_back_unless_none_are_asked_for() -> None:
    first, numbers, third, _ = made()
    first.requires_grad_()
    found = gather_rows([first, numbers, third])
    assert [tensor.requires_grad for tensor in found.tensors] == [True, False, True]
    (found.tensors[0] * torch.arange(6.0).view(3, 2)).sum().backward()
    assert torch.equal(first.grad, torch.arange(6.0).view(3, 2))
    with torch.no_grad():
        assert not gather_rows([first, numbers]).tensors[0].requires_grad


@pytest.mark.usefixtures("process")
def test_a_process_without_gradients_joins_the_exchange_of_the_others() -> None:
    tensor = torch.ones(2, 3)
    assert gather_equal_rows(tensor, trained=True).requires_grad
    assert not gather_equal_rows(torch.ones(2, 3), trained=False).requires_grad
    assert trains_distributed()
    with torch.no_grad():
        assert not trains_distributed()


def test_a_single_process_exchanges_nothing() -> None:
    tensors = made()
    found = gather_rows(tensors)
    assert all(ours is given for ours, given in zip(found.tensors, tensors, strict=True))
    assert (found.start, found.processes) == (0, 1) and not trains_distributed()


def test_missing_rows_are_zeros() -> None:
    found = pad_rows(torch.ones(2, 3, 1, dtype=torch.long), 4)
    assert found.dtype == torch.long and found.flatten(1).tolist() == [[1] * 3, [1] * 3, [0] * 3, [0] * 3]
    assert pad_rows(found, 4).tolist() == found.tolist() and pad_rows(torch.ones(0, 2), 1).tolist() == [[0, 0]]


def test_a_tower_that_does_not_run_has_gradients_of_zero() -> None:
    tower = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, dtype=torch.bfloat16))
    tower[0].bias.requires_grad_(False)
    zero = zero_with_grad(tower)
    assert zero.shape == () and zero.item() == 0 and zero.dtype == torch.float
    zero.backward()
    assert tower[0].bias.grad is None
    assert all(not part.grad.any() for part in (tower[0].weight, tower[1].weight, tower[1].bias))
    frozen = zero_with_grad(tower.requires_grad_(False))
    assert frozen.item() == 0 and not frozen.requires_grad
