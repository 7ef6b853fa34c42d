"""Contrastive losses against losses written out by hand, in blocks, with groups, and over two processes."""

import math
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from plait.modeling.losses import contrastive
from plait.modeling.losses.contrastive import ContrastiveLoss, Similarity, fingerprint, mix_bits

BATCH, WIDTH = 7, 5


def vectors(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()


def similarity_of(scale: float = 5.0, bias: float | None = None) -> Similarity:
    module = Similarity(scale, bias).double()
    module.init_weights(0.02)
    return module


def by_hand(
    kind: str,
    first: Tensor,
    second: Tensor,
    scale: float,
    bias: float = 0.0,
    same: set[tuple[int, int]] = frozenset(),
    hardness: float = 0.0,
) -> float:
    """The loss in plain loops over numbers."""
    total, size = 0.0, len(first)
    scores = (scale * first @ second.T + bias).tolist()
    directions = [scores, [list(row) for row in zip(*scores, strict=True)]] if kind == "info_nce" else [scores]
    for table in directions:
        for i in range(size):
            wrong = [table[i][j] for j in range(size) if i != j and (i, j) not in same and (j, i) not in same]
            if kind == "sigmoid":
                terms = [math.log1p(math.exp(-table[i][i])), *(math.log1p(math.exp(score)) for score in wrong)]
                total += sum(terms)
                continue
            weights = [math.exp(hardness * score) for score in wrong]
            weights = [len(wrong) * weight / sum(weights) for weight in weights]
            against = sum(weight * math.exp(score) for weight, score in zip(weights, wrong, strict=True))
            total += math.log1p(against / math.exp(table[i][i]))
    return total / size / len(directions)


@pytest.mark.parametrize("block", [1, 3 * BATCH, 2**20])
@pytest.mark.parametrize(
    ("kind", "bias", "hardness"), [("info_nce", None, 0), ("info_nce", None, 0.7), ("sigmoid", -2.0, 0)]
)
def test_it_is_the_loss_written_by_hand(kind: str, bias: float | None, hardness: float, block: int) -> None:
    """Rows 0 and 3 have the same picture, 1, 2 and 3 the same caption; -1 is like nothing, not even another -1."""
    first, second = vectors(BATCH, WIDTH), vectors(BATCH, WIDTH, seed=1)
    groups = torch.tensor([[0, 5, 4, 0, 9, -1, -1], [0, 1, 1, 1, 2, -1, -1]]).T
    loss = ContrastiveLoss(kind, hardness=hardness, block=block)(first, second, similarity_of(bias=bias), groups)
    expected = by_hand(kind, first, second, 5.0, bias or 0.0, {(0, 3), (1, 2), (1, 3), (2, 3)}, hardness)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["info_nce", "sigmoid"])
def test_blocks_change_no_gradient(kind: str) -> None:
    def gradients(block: int) -> list[Tensor]:
        first, second, negatives = (
            vectors(BATCH, WIDTH),
            vectors(BATCH, WIDTH, seed=1),
            vectors(2 * BATCH, WIDTH, seed=2),
        )
        similarity = similarity_of(bias=-1.0)
        ContrastiveLoss(kind, block=block)(first, second, similarity, negatives=negatives).backward()
        return [tensor.grad for tensor in (first, second, negatives, *similarity.parameters())]

    for whole, blocks in zip(gradients(2**20), gradients(2 * BATCH), strict=True):
        torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-13)
        assert whole.abs().sum() > 0


def test_gradients_are_those_of_finite_differences() -> None:
    groups = torch.tensor([0, 1, 1, 2])[:, None]
    for kind, hardness in (("info_nce", 0.0), ("info_nce", 0.5), ("sigmoid", 0.0)):
        similarity = similarity_of(bias=-1.0)
        loss = ContrastiveLoss(kind, hardness=hardness)
        assert torch.autograd.gradcheck(
            lambda x, y, loss=loss, similarity=similarity: loss(x, y, similarity, groups),
            (vectors(4, 3), vectors(4, 3, seed=1)),
        )


@pytest.mark.parametrize("kind", ["info_nce", "sigmoid"])
def test_a_row_without_its_partner_has_no_part(kind: str) -> None:
    first, second = vectors(BATCH, WIDTH), vectors(BATCH, WIDTH, seed=1)
    present = torch.tensor([True, True, False, True, True, False, True])
    loss, similarity = ContrastiveLoss(kind), similarity_of()
    whole = loss(first, second, similarity, present=present)
    assert torch.equal(whole, loss(first[present], second[present], similarity))
    whole.backward()
    assert not first.grad[~present].any() and first.grad[present].any()


@pytest.mark.parametrize("block", [4, 2**20])
@pytest.mark.parametrize(
    ("kind", "bias", "hardness"), [("info_nce", None, 0.0), ("info_nce", None, 0.7), ("sigmoid", -2.0, 0.0)]
)
def test_hard_negatives_are_negatives_of_all(kind: str, bias: float | None, hardness: float, block: int) -> None:
    """As further columns, in one direction; those with a row's own number are left out there."""
    first, second, further = vectors(3, WIDTH), vectors(3, WIDTH, seed=1), vectors(4, WIDTH, seed=2)
    groups, others = torch.tensor([[1], [2], [3]]), torch.tensor([[4], [1], [-1], [4]])
    loss = ContrastiveLoss(kind, hardness=hardness, block=block)
    found = loss(first, second, similarity_of(bias=bias), groups, negatives=further, negative_groups=others)
    total = 0.0
    for rows, columns, more in ((first, second, further), (second, first, further[:0])):
        scores = (5.0 * rows @ torch.cat((columns, more)).T + (bias or 0.0)).tolist()
        for i, row in enumerate(scores):
            wrong = [row[j] for j in range(len(row)) if j != i and (i, j) != (0, 4)]
            if kind == "sigmoid":
                total += math.log1p(math.exp(-row[i])) + sum(math.log1p(math.exp(score)) for score in wrong)
                continue
            weights = [math.exp(hardness * score) for score in wrong]
            pairs = zip(weights, wrong, strict=True)
            against = sum(len(wrong) * weight / sum(weights) * math.exp(score) for weight, score in pairs)
            total += math.log1p(against / math.exp(row[i])) / 2
        if kind == "sigmoid":
            break
    assert found.item() == pytest.approx(total / 3, abs=1e-12)


def test_harder_negatives_count_more() -> None:
    first, second = vectors(BATCH, WIDTH), vectors(BATCH, WIDTH, seed=1)
    losses = [ContrastiveLoss(hardness=hardness)(first, second, similarity_of()).item() for hardness in (0, 0.5, 2)]
    assert losses == sorted(losses) and losses[0] < losses[2]
    assert ContrastiveLoss(hardness=1e-9)(first, second, similarity_of()).item() == pytest.approx(losses[0])


@pytest.mark.parametrize("hardness", [0.0, 0.5])
def test_nothing_to_tell_apart_is_a_loss_of_zero(hardness: float) -> None:
    for groups in (None, torch.zeros(BATCH, 1, dtype=torch.long)):
        count = 1 if groups is None else BATCH
        first, second, similarity = vectors(count, WIDTH), vectors(count, WIDTH, seed=1), similarity_of()
        loss = ContrastiveLoss(hardness=hardness)(first, second, similarity, groups)
        loss.backward()
        assert loss.item() == 0 and not first.grad.any() and not similarity.logit_scale.grad.any()
    empty = ContrastiveLoss(hardness=hardness)(first, second, similarity, present=torch.zeros(BATCH, dtype=torch.bool))
    assert empty.item() == 0


def test_low_precision_is_computed_in_float32() -> None:
    first, second, similarity = (
        vectors(BATCH, WIDTH).float(),
        vectors(BATCH, WIDTH, seed=1).float(),
        similarity_of(100.0),
    )
    similarity.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ContrastiveLoss()(first, second, similarity)
    assert loss.dtype == torch.float32 and torch.equal(loss, ContrastiveLoss()(first, second, similarity))


def test_bad_input_is_said_to_be_bad() -> None:
    first, second, similarity = vectors(3, WIDTH), vectors(3, WIDTH, seed=1), similarity_of()
    loss = ContrastiveLoss()
    with pytest.raises(ValueError, match=r"shape \(3, 5\) and \(2, 5\)"):
        loss(first, second[:2], similarity)
    with pytest.raises(ValueError, match=r"groups has shape \(2, 1\), expected \(3, 1\)"):
        loss(first, second, similarity, torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"negatives has shape \(3, 4\), expected \(3, 5\)"):
        loss(first, second, similarity, negatives=vectors(3, 4))
    numbered = {"negatives": vectors(3, WIDTH), "negative_groups": torch.zeros(2, 1, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"negative_groups has shape \(2, 1\), expected \(3, 1\)"):
        loss(first, second, similarity, **numbered)
    with pytest.raises(ValueError, match="1 of 3 hard negatives are not finite"):
        loss(first, second, similarity, negatives=vectors(3, WIDTH).index_fill(0, torch.tensor(1), torch.inf))
    broken = first.detach().clone()
    broken[1, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 3 rows are not finite .first: row 1"):
        loss(broken, second, similarity)
    with pytest.raises(ValueError, match="no contrastive loss 'triplet'"):
        ContrastiveLoss("triplet")
    with pytest.raises(ValueError, match="hardness is 0.5"):
        ContrastiveLoss("sigmoid", hardness=0.5)
    with pytest.raises(ValueError, match="scale of similarities is -1"):
        Similarity(-1.0)


def test_the_temperature_has_a_limit_and_comes_back_from_it() -> None:
    similarity = similarity_of(100.0)
    with torch.no_grad():
        similarity.logit_scale += 1
    similarity.clamp_temperature()
    assert similarity.logit_scale.exp().item() == pytest.approx(100)
    ContrastiveLoss()(vectors(4, 3), vectors(4, 3, seed=1), similarity).backward()
    assert similarity.logit_scale.grad != 0


def test_equal_rows_have_equal_fingerprints() -> None:
    ids = torch.randint(0, 1000, (200, 9), generator=torch.Generator().manual_seed(0))
    ids[7] = ids[3]
    ids[:, 0] = 101  # all texts begin alike
    numbers = fingerprint(ids)
    assert len(numbers.unique()) == 199 and numbers[7] == numbers[3] and (numbers >= 0).all()
    assert torch.equal(fingerprint(F.pad(ids, (0, 4))), numbers)
    pictures = torch.rand(50, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for dtype in (torch.float16, torch.float32, torch.float64):
        both = torch.cat((pictures, pictures[:2])).to(dtype)
        assert len(fingerprint(both).unique()) == 50
    swapped = ids[:, [0, 2, 1, *range(3, 9)]]
    assert not (fingerprint(swapped) == numbers)[ids[:, 1] != ids[:, 2]].any()


def step(kind: str, rows: slice, hard: slice) -> list[Tensor]:
    """The loss of these rows and hard negatives of a batch, and its gradients: of the rows, then of what is shared."""
    torch.manual_seed(0)
    weight = torch.randn(WIDTH, WIDTH, dtype=torch.float64).requires_grad_()
    similarity = similarity_of(bias=-1.0)
    first, second = (vectors(BATCH, WIDTH, seed=seed).detach()[rows] for seed in (0, 1))
    negatives, numbers = vectors(BATCH, WIDTH, seed=2).detach()[hard] @ weight, torch.arange(BATCH)[:, None][hard]
    groups = torch.tensor([0, 1, 2, 3, 4, 1, 0])[:, None][rows]
    embedded = first @ weight
    embedded.retain_grad()
    loss = ContrastiveLoss(kind, block=2 * BATCH)(
        embedded, second @ weight, similarity, groups, negatives=negatives, negative_groups=numbers
    )
    loss.backward()
    return [loss.detach(), embedded.grad, weight.grad, *(parameter.grad for parameter in similarity.parameters())]


# rows and hard negatives of each process
CASES = [(kind, sizes) for kind in ("info_nce", "sigmoid") for sizes in (((4, 3), (2, 5)), ((7, 0), (0, 7)))]


def of_process(rank: int, port: int, folder: str) -> None:
    """One of two processes: its rows, and the gradients that DistributedDataParallel would average."""
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for number, (kind, sizes) in enumerate(CASES):
        results = step(kind, *(slice(sum(counts[:rank]), sum(counts[: rank + 1])) for counts in sizes))
        for tensor in results[2:]:
            distributed.all_reduce(tensor)
            tensor /= 2
        torch.save(results, Path(folder, f"{number}-{rank}.pt"))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Also where one has fewer rows or hard negatives, or none: the mean over processes of losses and of gradients is
    that of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [[sys.executable, __file__, str(rank), str(port), str(tmp_path)] for rank in range(2)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    for number, (kind, _) in enumerate(CASES):
        one, pair = (
            step(kind, slice(None), slice(None)),
            [torch.load(tmp_path / f"{number}-{rank}.pt") for rank in range(2)],
        )
        torch.testing.assert_close((pair[0][0] + pair[1][0]) / 2, one[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(torch.cat((pair[0][1], pair[1][1])) / 2, one[1], rtol=0, atol=1e-12)
        for shared in range(2, 5):
            torch.testing.assert_close(pair[0][shared], one[shared], rtol=0, atol=1e-12)


if __name__ == "__main__":
    of_process(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])


def mix(number: int) -> int:
    """splitmix64's finalizer in Python's integers, from the paper's constants; 0..2^64 - 1."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        number = (number ^ (number >> shift)) * factor % 2**64
    return number ^ (number >> 31)


def test_bits_are_mixed_as_splitmix64_does() -> None:
    numbers = [0, 1, 2, 2**31, 2**62 + 5, 2**63 - 1, -1, -(2**63), -12345678901]
    expected = [mix(number % 2**64) for number in numbers]
    assert [number % 2**64 for number in mix_bits(torch.tensor(numbers)).tolist()] == expected
    assert expected[0] == 0 and len(set(expected)) == len(numbers)


def test_a_fingerprint_depends_on_every_place_and_on_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(-1000, 1000, (6,), generator=generator)
    changed = row + torch.eye(6, dtype=torch.long)
    orders = torch.stack([row.roll(places) for places in range(6)])
    repeated = torch.tensor([[1, 1, 2, 2, 0, 0], [2, 2, 1, 1, 0, 0], [1, 2, 1, 2, 0, 0]])
    numbers = fingerprint(torch.cat((orders, changed, row.sort().values[None], repeated)))
    assert len(set(numbers.tolist())) == 6 + 6 + 1 + 3
    assert numbers.min() >= 0
    total = sum(mix(value % 2**64) * mix(place) for place, value in enumerate(row.tolist(), 1))
    assert int(numbers[0]) == mix(total % 2**64) % 2**63


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.bool]
)
def test_fingerprints_of_any_type_ignore_zeros_at_the_end(dtype: torch.dtype) -> None:
    rows = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 3.0], [1.0, 0.0, 3.0]]).to(dtype)
    first, other, again = fingerprint(rows).tolist()
    assert first == again != other
    padded = torch.cat((rows, torch.zeros(3, 2, dtype=dtype)), dim=1)
    assert fingerprint(padded).tolist() == [first, other, again] == fingerprint(rows[:, :, None]).tolist()


def test_defaults_of_the_loss_and_the_similarity() -> None:
    loss, similarity = ContrastiveLoss(), Similarity()
    assert (loss.kind, loss.hardness, loss.block, loss.gather) == ("info_nce", 0.0, 2**21, True)
    similarity.init_weights(0.02)
    assert similarity.logit_scale.exp().item() == pytest.approx(1 / 0.07) and similarity.logit_bias is None
    assert similarity.largest == 100 and Similarity(100.0).scale == 100
    with_bias = Similarity(10.0, -3.0)
    with_bias.init_weights(0.02)
    assert with_bias.logit_bias.item() == -3 and with_bias(torch.ones(2), torch.ones(2)).item() == pytest.approx(17)
    for scale in (0.0, 100.1):
        with pytest.raises(ValueError, match="scale of similarities is"):
            Similarity(scale)
    Similarity(200.0, largest=200.0)
    with pytest.raises(ValueError, match="hardness is -0.1"):
        ContrastiveLoss(hardness=-0.1)


def test_scalars_of_older_folders_load() -> None:
    similarity = Similarity(10.0, -3.0)
    similarity.load_state_dict({"logit_scale": torch.tensor(2.0), "logit_bias": torch.tensor([1.0])})
    assert similarity.logit_scale.tolist() == [2] and similarity.logit_bias.tolist() == [1]


@pytest.mark.parametrize(
    ("count", "groups", "further", "warned"),
    [
        (1, None, 0, True),
        (2, None, 0, False),
        (3, [1, 1, 1], 0, True),
        (3, [1, 1, 2], 0, False),
        (3, [-1, -1, -1], 0, False),
        (1, None, 1, False),
        (3, [1, 1, 1], 1, False),
    ],
)
def test_a_batch_without_negatives_is_said(
    count: int, groups: list[int] | None, further: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(contrastive.logger, "warning_once", said.append)
    numbers = None if groups is None else torch.tensor(groups)[:, None]
    ContrastiveLoss()(
        vectors(count, WIDTH), vectors(count, WIDTH, seed=1), similarity_of(), numbers,
        negatives=vectors(further, WIDTH, seed=2),
    )  # fmt: skip
    assert bool(said) is warned
    if warned:
        assert f"a batch of {count} pair{'s that are all alike' if count > 1 else ''} has no negatives" in said[0]
