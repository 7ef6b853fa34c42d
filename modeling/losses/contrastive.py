"""Contrastive losses: each pair of vectors against all others in the batch, in blocks, for batches of any size."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.utils import logging

from ..core.distributed import gather_rows
from ..core.layers import SelfInitializing
from ..graphs import is_recording_graph

logger = logging.get_logger(__name__)

LossKind = Literal["info_nce", "sigmoid"]
# (rows, columns) logits, (rows,) index of each row's own column, (rows, columns) True for negatives -> (rows,) losses
RowLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

LOGITS_PER_BLOCK = 2**21  # logits in memory at a time: 8 MiB in float32
NO_GROUP = -1  # the group of a row that equals no other


class Similarity(SelfInitializing):
    """exp(t) x y^T + b, with a learned temperature t (CLIP, Radford et al. 2021, https://arxiv.org/abs/2103.00020,
    section 2.3) and, where it starts with one, a learned bias b (SigLIP, Zhai et al. 2023,
    https://arxiv.org/abs/2303.15343, section 3.2).

    scale, bias: exp(t) and b at initialization (no bias if None); largest: the maximum of exp(t) (CLIP: 100).

    Raises:
        ValueError: a scale that is not above 0 and at most `largest`.
    """

    def __init__(self, scale: float = 1 / 0.07, bias: float | None = None, largest: float = 100.0) -> None:
        super().__init__()
        if not 0 < scale <= largest:
            raise ValueError(f"the scale of similarities is {scale}: expected a number above 0, at most {largest:g}")
        self.scale, self.bias, self.largest = scale, bias, largest
        # not scalars: FSDP cannot shard them
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = None if bias is None else nn.Parameter(torch.empty(1))

    def init_weights(self, std: float) -> None:
        """Sets the temperature and the bias to their initial values."""
        init.constant_(self.logit_scale, math.log(self.scale))
        if self.logit_bias is not None and self.bias is not None:
            init.constant_(self.logit_bias, self.bias)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Computes the logits, (rows, columns), of first: (rows, width), second: (columns, width), of unit length; a
        single vector, (width), has no axis of rows or columns."""
        logits = first @ second.transpose(0, -1) * self.logit_scale.exp().reshape(())
        return logits if self.logit_bias is None else logits + self.logit_bias.reshape(())

    def clamp_temperature(self) -> None:
        """Lowers exp(t) to `largest` if training raised it above."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(self.largest))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loads scalars too, which CLIP and all saved folders hold."""
        for name in self._parameters:
            value = state_dict.get(f"{prefix}{name}")
            if value is not None and value.ndim == 0:
                state_dict[f"{prefix}{name}"] = value.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


def info_nce(logits: Tensor, own: Tensor, negatives: Tensor) -> Tensor:
    """Computes -log( e^{s_ii} / (e^{s_ii} + sum over negatives j of e^{s_ij}) ) for each row, (rows,); 0 for a row
    without negatives (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, equation 4)."""
    counted = negatives.scatter(1, own[:, None], True)
    return F.cross_entropy(logits.masked_fill(~counted, float("-inf")), own, reduction="none")


def hard_info_nce(logits: Tensor, own: Tensor, negatives: Tensor, hardness: float) -> Tensor:
    """Computes InfoNCE for each row, (rows,), with its n negatives weighted by how hard they are (Robinson et al. 2021,
    https://arxiv.org/abs/2010.04592, section 4, without the correction for false negatives): their sum becomes

        sum over j of w_j e^{s_ij},  w_j = n e^{beta s_ij} / sum over k of e^{beta s_ik},  beta = hardness
    """
    right = logits.gather(1, own[:, None])[:, 0]
    wrong = logits.masked_fill(~negatives, float("-inf"))
    count = negatives.sum(dim=1).to(logits.dtype)
    some = count > 0
    hard = ((1 + hardness) * wrong[some]).logsumexp(1) - (hardness * wrong[some]).logsumexp(1) + count[some].log()
    against = torch.logaddexp(right[some], hard) - right[some]
    return torch.zeros_like(right).masked_scatter(some, against)


def sigmoid_loss(logits: Tensor, own: Tensor, negatives: Tensor) -> Tensor:
    """Computes -log sigmoid(s_ii) - sum over negatives j of log sigmoid(-s_ij) for each row, (rows,) (SigLIP, Zhai et
    al. 2023, equation 1 and algorithm 1)."""
    right = logits.gather(1, own[:, None])[:, 0]
    return F.softplus(-right) + (F.softplus(logits) * negatives).sum(dim=1)


class VectorPairs(NamedTuple):
    """The vectors of pairs and their groups. first, second: (batch, width); groups: (batch, kinds)."""

    first: Tensor
    second: Tensor
    groups: Tensor


class HardNegatives(NamedTuple):
    """Negatives that are no row's pair. vectors: (negatives, width); groups: (negatives, kinds)."""

    vectors: Tensor
    groups: Tensor


class Anchors(NamedTuple):
    """The vectors of one direction of the loss: each row is compared with all columns. rows: (rows, width); columns:
    (columns, width); own: (rows,), index of each row's own column; row_groups: (rows, kinds); column_groups: (columns,
    kinds)."""

    rows: Tensor
    columns: Tensor
    own: Tensor
    row_groups: Tensor
    column_groups: Tensor


@dataclass(frozen=True)
class ContrastiveLoss:
    """The loss of pairs (x_i, y_i): each x against all y and, for InfoNCE, each y against all x, averaged.

    kind: "info_nce" or "sigmoid" (which is the same in both directions, so that only one is computed). hardness: how
    much more a harder negative counts in InfoNCE (0: all alike). block: the largest number of logits in memory; for
    more, the logits of blocks of rows are recomputed in the backward pass. gather: with several processes, the rows of
    all are negatives, with gradients; the mean over processes (and, by DistributedDataParallel, of their gradients) is
    then what one process would compute with all rows.

    Raises:
        ValueError: an unknown kind, a negative hardness, or any hardness with "sigmoid".
    """

    kind: LossKind = "info_nce"
    hardness: float = 0.0
    block: int = LOGITS_PER_BLOCK
    gather: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("info_nce", "sigmoid"):
            raise ValueError(f"there is no contrastive loss {self.kind!r}: choose 'info_nce' or 'sigmoid'")
        if self.hardness < 0 or (self.hardness and self.kind == "sigmoid"):
            raise ValueError(f"hardness is {self.hardness}: expected 0, or a number above 0 with kind 'info_nce'")

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
        """Computes the mean loss of the pairs, a scalar. InfoNCE is 0, with a warning, if the batch has no negatives
        (one pair, or all pairs equal).

        Args:
            first, second: (batch, width), of unit length; row i of one is paired with row i of the other.
            groups: (batch, kinds) integers: rows with the same number in one kind (the same image, the same caption)
                are not each other's negatives; -1 equals no other. Equal content has equal numbers in all processes.
            present: (batch,), False for a row that lacks one of the two vectors: the loss ignores it.
            negatives: (negatives, width), hard negatives that the rows of `first` are compared with, any number in each
                process. negative_groups: (negatives, kinds), as `groups`: a hard negative in a row's group (its own
                caption, for example) is not a negative of that row.

        Raises:
            ValueError: sizes that do not match, or vectors that are not finite.
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
        """The function that computes the loss of each row."""
        if self.kind == "sigmoid":
            return sigmoid_loss
        return partial(hard_info_nce, hardness=self.hardness) if self.hardness else info_nce

    def sum_losses(self, similarity: Similarity, anchors: Anchors) -> Tensor:
        """Computes the sum of the rows' losses, in blocks of rows; without rows, of one empty block: its zero has
        gradients, so that a process without rows joins every exchange of gradients."""
        size = max(1, self.block // max(len(anchors.columns), 1))
        starts = range(0, max(len(anchors.rows), 1), size)
        total = anchors.rows.new_zeros((), dtype=torch.promote_types(anchors.rows.dtype, torch.float32))
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
    """Builds the pairs; without `groups` every pair is in `NO_GROUP`.

    Raises ValueError for sizes that do not match.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"contrastive: vectors of shape {tuple(first.shape)} and {tuple(second.shape)}: expected the same shape, "
            "(batch, width), for both"
        )
    if groups is None:
        groups = torch.full((len(first), 1), NO_GROUP, device=first.device)
    check_shape("groups", groups, (len(first), groups.shape[-1]))
    return VectorPairs(first, second, groups)


def build_negatives(pairs: VectorPairs, vectors: Tensor | None, groups: Tensor | None) -> HardNegatives:
    """Builds the hard negatives: zero of them without `vectors`; without `groups` each is in `NO_GROUP`.

    Raises ValueError for sizes that do not match those of the pairs.
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
    """Raises ValueError, with the tensor's name, if it does not have the expected shape."""
    if tensor.shape != expected:
        raise ValueError(f"contrastive: {name} has shape {tuple(tensor.shape)}, expected {expected}")


def check_contrastive_batch(pairs: VectorPairs, further: HardNegatives) -> None:
    """Warns if the batch has no negatives. Reads flags on the host: one synchronization per step on a GPU.

    Raises ValueError, in every process, for vectors that are not finite.
    """
    if is_recording_graph():
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
        logger.warning_once(
            f"contrastive: a batch of {what} has no negatives, its loss is 0: use a larger batch with different pairs"
        )


def compute_block_loss(
    row_loss: RowLoss,
    similarity: Similarity,
    rows: Tensor,
    columns: Tensor,
    own: Tensor,
    row_groups: Tensor,
    column_groups: Tensor,
) -> Tensor:
    """Computes the summed loss of a block of rows against all columns, in float32 or wider; shapes as in `Anchors`."""
    with torch.autocast(rows.device.type, enabled=False):
        wide = torch.promote_types(rows.dtype, torch.float32)
        logits = similarity(rows.to(wide), columns.to(wide))
        negatives = ~find_same_groups(row_groups, column_groups).scatter(1, own[:, None], True)
        return row_loss(logits, own, negatives).sum()


def find_same_groups(rows: Tensor, columns: Tensor) -> Tensor:
    """Returns (rows, columns), True for a row and a column that share the group of any kind.

    rows: (rows, kinds); columns: (columns, kinds).
    """
    same = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=rows.device)
    for kind in range(rows.shape[1]):
        number = rows[:, kind, None]
        same |= (number == columns[:, kind]) & (number != NO_GROUP)
    return same


def fingerprint(values: Tensor) -> Tensor:
    """Computes a non-negative integer for each row, (rows,): equal rows have equal numbers, in every process and on
    every device, and two different rows collide with probability 2^-63. Zeros at the end of a row do not change it.

    values: (rows, ...), of any dtype.
    """
    rows = values.detach().flatten(1).contiguous()
    if rows.is_floating_point():
        rows = rows.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])
    factors = mix_bits(torch.arange(1, rows.shape[1] + 1, device=rows.device))
    return mix_bits((mix_bits(rows.long()) * factors).sum(dim=1)) & (2**63 - 1)


def mix_bits(numbers: Tensor) -> Tensor:
    """Permutes the 64-bit integers pseudo-randomly, with 0 as a fixed point (splitmix64, Steele et al. 2014)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        numbers = (numbers ^ ((numbers >> shift) & (2 ** (64 - shift) - 1))) * factor
    return numbers ^ ((numbers >> 31) & (2**33 - 1))
