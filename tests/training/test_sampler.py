"""Batches that share pictures."""

from plait.training.sampler import PictureSampler, group_rows, shuffled

KEYS = ["a", "b", "a", None, "c", "b", None, "a", "c"]


def order(epoch: int, seed: int = 7) -> list[int]:
    return list(PictureSampler(KEYS, seed, lambda: epoch))


def test_every_row_comes_once() -> None:
    assert sorted(order(0)) == list(range(len(KEYS)))
    assert len(PictureSampler(KEYS, 0, lambda: 0)) == len(KEYS)


def test_rows_of_a_picture_stand_together() -> None:
    places = {row: place for place, row in enumerate(order(0))}
    for group in group_rows(KEYS):
        found = sorted(places[row] for row in group)
        assert found == list(range(found[0], found[0] + len(group)))


def test_rows_without_a_picture_stand_alone() -> None:
    assert [3] in group_rows(KEYS)
    assert [6] in group_rows(KEYS)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert order(3) == order(3)
    assert len({tuple(order(epoch)) for epoch in range(5)}) > 1
    assert len({tuple(order(0, seed)) for seed in range(5)}) > 1


def test_the_epoch_is_asked_for_when_the_rows_are_walked() -> None:
    epoch = [0]
    sampler = PictureSampler(KEYS, 7, lambda: epoch[0])
    first = list(sampler)
    epoch[0] = 2
    assert list(sampler) == order(2)
    epoch[0] = 0
    assert list(sampler) == first


def test_shuffled_is_a_permutation() -> None:
    assert sorted(shuffled(20, 1)) == list(range(20))
    assert shuffled(20, 1) == shuffled(20, 1)
    assert shuffled(20, 1) != shuffled(20, 2)
