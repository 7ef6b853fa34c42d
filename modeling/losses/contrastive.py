"""Contrastive losses: what belongs together against everything else in the batch, whatever its size."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.utils import logging
from transformers.utils.import_utils import is_torchdynamo_compiling

from ..core.distributed import gather_rows
from ..core.layers import SelfInitializing

logger = logging.get_logger(__name__)

LossKind = Literal["info_nce", "sigmoid"]
# (rows, columns) logits, (rows,) each row's own column, (rows, columns) which are its negatives; (rows,)
RowLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

LOGITS_PER_BLOCK = 2**21  # logits at a time: 8 MiB in float32
NO_GROUP = -1  # the group of a row that is like no other


class Similarity(SelfInitializing):
    """exp(t) x y^T + b, with a learned temperature t (CLIP, Radford et al. 2021, https://arxiv.org/abs/2103.00020,
    section 2.3) and, where it starts with one, a learned bias b (SigLIP, Zhai et al. 2023,
    https://arxiv.org/abs/2303.15343, section 3.2).

    scale, bias: what exp(t) and b are at the start; largest: what exp(t) may become (CLIP: 100).
    """

    def __init__(self, scale: float = 1 / 0.07, bias: float | None = None, largest: float = 100.0) -> None:
        super().__init__()
        if not 0 < scale <= largest:
            raise ValueError(f"the scale of similarities is {scale}: expected a number above 0, at most {largest:g}")
        self.scale, self.bias, self.largest = scale, bias, largest
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = None if bias is None else nn.Parameter(torch.empty(()))

    def init_weights(self, std: float) -> None:
        init.constant_(self.logit_scale, math.log(self.scale))
        if self.logit_bias is not None and self.bias is not None:
            init.constant_(self.logit_bias, self.bias)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first: (rows, width), second: (columns, width), of unit length; (rows, columns)."""
        logits = first @ second.T * self.logit_scale.exp()
        return logits if self.logit_bias is None else logits + self.logit_bias

    def clamp_temperature(self) -> None:
        """Bring a temperature that training has led too far back to the largest."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(self.largest))


def info_nce(logits: Tensor, own: Tensor, negatives: Tensor) -> Tensor:
    """-log( e^{s_ii} / (e^{s_ii} + sum over negatives j of e^{s_ij}) ) (van den Oord et al. 2018,
    https://arxiv.org/abs/1807.03748, equation 4); 0 for a row without negatives. (rows,)"""
    counted = negatives.scatter(1, own[:, None], True)
    return F.cross_entropy(logits.masked_fill(~counted, float("-inf")), own, reduction="none")


def hard_info_nce(logits: Tensor, own: Tensor, negatives: Tensor, hardness: float) -> Tensor:
    """InfoNCE in which the n negatives of a row count by how hard they are (Robinson et al. 2021,
    https://arxiv.org/abs/2010.04592, section 4, without the correction for false negatives):

        sum over j of w_j e^{s_ij},  w_j = n e^{beta s_ij} / sum over k of e^{beta s_ik},  beta = hardness

    (rows,)"""
    right = logits.gather(1, own[:, None])[:, 0]
    wrong = logits.masked_fill(~negatives, float("-inf"))
    count = negatives.sum(dim=1).to(logits.dtype)
    some = count > 0
    hard = ((1 + hardness) * wrong[some]).logsumexp(1) - (hardness * wrong[some]).logsumexp(1) + count[some].log()
    against = torch.logaddexp(right[some], hard) - right[some]
    return torch.zeros_like(right).masked_scatter(some, against)


def sigmoid_loss(logits: Tensor, own: Tensor, negatives: Tensor) -> Tensor:
    """-log sigmoid(s_ii) - sum over negatives j of log sigmoid(-s_ij) (SigLIP, Zhai et al. 2023, equation 1 and
    algorithm 1). (rows,)"""
    right = logits.gather(1, own[:, None])[:, 0]
    return F.softplus(-right) + (F.softplus(logits) * negatives).sum(dim=1)


class VectorPairs(NamedTuple):
    """first, second: (batch, width); groups: (batch, kinds)."""

    first: Tensor
    second: Tensor
    groups: Tensor


class HardNegatives(NamedTuple):
    """What belongs to no row. vectors: (further, width); groups: (further, kinds)."""

    vectors: Tensor
    groups: Tensor


class Anchors(NamedTuple):
    """Rows against columns. rows: (rows, width); columns: (columns, width); own: (rows,) the number of each row's own
    column; row_groups: (rows, kinds); column_groups: (columns, kinds)."""

    rows: Tensor
    columns: Tensor
    own: Tensor
    row_groups: Tensor
    column_groups: Tensor


@dataclass(frozen=True)
class ContrastiveLoss:
    """The loss of pairs (x_i, y_i): each x against all y and, for InfoNCE, each y against all x, averaged.

    kind: "info_nce" or "sigmoid" (which says the same in both directions, so that one is computed). hardness: of
    InfoNCE, how much more a harder negative counts (0: all alike). block: logits at a time; of more, blocks of rows are
    computed anew for the gradient, so that the whole table never stands in memory. gather: with several processes, the
    rows of all are negatives, with gradients; the mean over processes (and, by DistributedDataParallel, of their
    gradients) is then what one process would compute with all rows.

    Raises:
        ValueError: an unknown kind, a negative hardness, or one with "sigmoid".
    """

    kind: LossKind = "info_nce"
    hardness: float = 0.0
    block: int = LOGITS_PER_BLOCK
    gather: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("info_nce", "sigmoid"):
            raise ValueError(f"there is no contrastive loss {self.kind!r}, only 'info_nce' and 'sigmoid'")
        if self.hardness < 0 or (self.hardness and self.kind == "sigmoid"):
            raise ValueError(f"hardness is {self.hardness}: expected a number from 0 on, above 0 with 'info_nce' only")

    def __call__(
        self,
        first: Tensor,
        second: Tensor,
        similarity: Similarity,
        groups: Tensor | None = None,
        present: Tensor | None = None,
        negatives: Tensor | None = None,
        negative_groups: Tensor | None = None,
    ) -> Tensor:
        """The mean loss of the pairs, a scalar; InfoNCE is 0 where nothing can be told apart (one pair, or all alike);
        there is a warning.

        Args:
            first, second: (batch, width), of unit length, row i of one belonging to row i of the other.
            groups: (batch, kinds) numbers: two rows with the same number of one kind (the same picture, the same
                caption) are not each other's negatives; -1 is like no other. Equal content has equal numbers in all
                processes.
            present: (batch,), False for a row that lacks one of the two and has no part in the loss.
            negatives: (further, width), hard negatives of the second's kind, any number in each process: they belong to
                no row, and are negatives of all. negative_groups: (further, kinds), as `groups`: one that is like a row
                (its own caption, say) is none of that row's.

        Raises:
            ValueError: sizes that do not fit, or vectors that are not finite.
        """
        own = build_pairs(first, second, groups)
        hard = build_negatives(own, negatives, negative_groups)
        if present is not None:
            own = VectorPairs(*(part[present] for part in own))
        parts, start, processes = gather_rows(own) if self.gather else (tuple(own), 0, 1)
        every, further = VectorPairs(*parts), HardNegatives(*(gather_rows(hard).tensors if self.gather else hard))
        check_contrastive_batch(every, further)
        numbers = torch.arange(start, start + len(own.first), device=first.device)
        columns = torch.cat((every.second, further.vectors))
        column_groups = torch.cat((every.groups, further.groups))
        total = self.sum_losses(similarity, Anchors(own.first, columns, numbers, own.groups, column_groups))
        if self.kind == "info_nce":
            back = Anchors(own.second, every.first, numbers, own.groups, every.groups)
            total = (total + self.sum_losses(similarity, back)) / 2
        return total * (processes / max(len(every.first), 1))

    @property
    def row_loss(self) -> RowLoss:
        if self.kind == "sigmoid":
            return sigmoid_loss
        return partial(hard_info_nce, hardness=self.hardness) if self.hardness else info_nce

    def sum_losses(self, similarity: Similarity, anchors: Anchors) -> Tensor:
        """The sum of the rows' losses, in blocks of rows."""
        size = max(1, self.block // max(len(anchors.columns), 1))
        starts = range(0, len(anchors.rows), size)
        # zero: a process without rows takes part in every exchange of gradients
        total = torch.stack([0 * x.sum() for x in (anchors.columns, *similarity.parameters())]).sum()
        for start in starts:
            rows = slice(start, start + size)
            block = anchors._replace(
                rows=anchors.rows[rows], own=anchors.own[rows], row_groups=anchors.row_groups[rows]
            )
            if len(starts) == 1 or not torch.is_grad_enabled():
                total = total + compute_block_loss(self.row_loss, similarity, *block)
            else:
                arguments = (compute_block_loss, self.row_loss, similarity, *block)
                total = total + checkpoint(*arguments, use_reentrant=False, preserve_rng_state=False)
        return total


def build_pairs(first: Tensor, second: Tensor, groups: Tensor | None) -> VectorPairs:
    """The pairs, of no group where none is given.

    Raises ValueError for sizes that do not fit.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"contrastive: vectors of shape {tuple(first.shape)} against {tuple(second.shape)}: pair them")
    if groups is None:
        groups = torch.full((len(first), 1), NO_GROUP, device=first.device)
    check_shape("groups", groups, (len(first), groups.shape[-1]))
    return VectorPairs(first, second, groups)


def build_negatives(pairs: VectorPairs, vectors: Tensor | None, groups: Tensor | None) -> HardNegatives:
    """The hard negatives of these pairs, of no group where none is given; no negative where there is none.

    Raises ValueError for sizes that do not fit.
    """
    if vectors is None:
        vectors = pairs.second.new_zeros(0, pairs.second.shape[1])
    check_shape("negatives", vectors, (len(vectors), pairs.second.shape[1]))
    shape = (len(vectors), pairs.groups.shape[1])
    if groups is None:
        groups = torch.full(shape, NO_GROUP, device=vectors.device)
    check_shape("negative_groups", groups, shape)
    return HardNegatives(vectors, groups)


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raises ValueError for a tensor of another shape."""
    if tensor.shape != expected:
        raise ValueError(f"contrastive: {name} has shape {tuple(tensor.shape)}, expected {expected}")


def check_contrastive_batch(pairs: VectorPairs, further: HardNegatives) -> None:
    """Warn where nothing can be told apart. Reads a flag on the host: one synchronisation a step on a GPU.

    Raises ValueError for vectors that are not finite, in every process alike.
    """
    if is_torchdynamo_compiling():
        return
    finite = (pairs.first.isfinite() & pairs.second.isfinite()).all(dim=1)
    alike = ((pairs.groups == pairs.groups[:1]) & (pairs.groups != NO_GROUP)).all(dim=0).any()
    flags = torch.stack((finite.all(), further.vectors.isfinite().all(), alike)).tolist()
    all_finite, all_further_finite, all_alike = flags
    if not all_finite:
        rows = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"contrastive: the vectors of {len(rows)} of {len(finite)} rows are not finite (first: row {rows[0]}): "
            "look for NaN or infinite inputs, or lower the learning rate"
        )
    if not all_further_finite:
        count = int((~further.vectors.isfinite().all(dim=1)).sum())
        raise ValueError(
            f"contrastive: {count} of {len(further.vectors)} hard negatives are not finite: look for NaN or infinite "
            "inputs, or lower the learning rate"
        )
    if len(further.vectors) == 0 and (len(finite) < 2 or all_alike):
        what = f"{len(finite)} pair{'s' if len(finite) != 1 else ''}{' that are all alike' if len(finite) > 1 else ''}"
        logger.warning_once(f"contrastive: a batch of {what} has no negatives and teaches nothing")


def compute_block_loss(
    row_loss: RowLoss,
    similarity: Similarity,
    rows: Tensor,
    columns: Tensor,
    own: Tensor,
    row_groups: Tensor,
    column_groups: Tensor,
) -> Tensor:
    """The summed loss of some rows against all columns, computed in float32 at least."""
    with torch.autocast(rows.device.type, enabled=False):
        wide = torch.promote_types(rows.dtype, torch.float32)
        logits = similarity(rows.to(wide), columns.to(wide))
        negatives = ~find_same_groups(row_groups, column_groups).scatter(1, own[:, None], True)
        return row_loss(logits, own, negatives).sum()


def find_same_groups(rows: Tensor, columns: Tensor) -> Tensor:
    """(rows, columns) bool: which have an equal number of one kind; rows, columns: (..., kinds)."""
    same = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=rows.device)
    for kind in range(rows.shape[1]):
        number = rows[:, kind, None]
        same |= (number == columns[:, kind]) & (number != NO_GROUP)
    return same


def fingerprint(values: Tensor) -> Tensor:
    """A number from 0 on for each row, (rows,): equal rows have equal ones, in every process and on every device, and
    others the same with a chance of 2^-63. Zeros at the end of a row change nothing.

    values: (rows, ...), of any type.
    """
    rows = values.detach().flatten(1).contiguous()
    if rows.is_floating_point():
        rows = rows.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])
    places = mix_bits(torch.arange(1, rows.shape[1] + 1, device=rows.device))
    return mix_bits((mix_bits(rows.long()) * places).sum(dim=1)) & (2**63 - 1)


def mix_bits(numbers: Tensor) -> Tensor:
    """A permutation of the 64-bit numbers that leaves no pattern (splitmix64, Steele et al. 2014) and keeps 0."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        numbers = (numbers ^ ((numbers >> shift) & (2 ** (64 - shift) - 1))) * factor
    return numbers ^ ((numbers >> 31) & (2**33 - 1))
