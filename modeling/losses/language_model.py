"""Cross-entropy over a vocabulary, in chunks of tokens: the logits of all tokens are never in memory at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.install import ForwardKernel, install_kernel, remove_kernels
from ..kernels.linear import linear
from ..kernels.plain import is_exact_embedding
from .cross_entropy import IGNORE_INDEX

LOGITS_PER_CHUNK = {"cpu": 15 * 2**20, "cuda": 40 * 2**20}  # logits in memory: 60 MiB in float32, on a GPU 160 MiB


def language_model_loss(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Computes the mean cross-entropy of x W^T + b over the labels that are not -100; zero, not NaN, if all are.

    x: (batch, length, width); weight: (vocabulary, width), bias: (vocabulary,); labels: (batch, length), at each
    position the token id that is predicted there. `num_items_in_batch` replaces the number of labels as the divisor.
    Raises ValueError if there is not one label for each token, or for a label outside the vocabulary.
    """
    labels = labels.to(x.device)
    check_token_labels(labels, x, len(weight))
    kept = labels != IGNORE_INDEX
    count = kept.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    total = ChunkedCrossEntropy.apply(x[kept], weight, bias, labels[kept], label_smoothing)
    return total / (count.to(x.device) if isinstance(count, Tensor) else count)


class SparseLookup(ForwardKernel):
    """Replaces an embedding's `forward`: looks tokens up in the rows of `SharedWeight`, with a sparse gradient."""

    def __init__(self, rows: Tensor, padding_idx: int | None) -> None:
        self.rows, self.padding_idx = rows, padding_idx

    def __call__(self, input: Tensor) -> Tensor:
        """Maps token ids, (batch, length), to (batch, length, width)."""
        return F.embedding(input, self.rows, self.padding_idx, sparse=True)


@contextmanager
def share_weight(embedding: Any, head: Any) -> Iterator[Tensor]:
    """Yields the weight to call `language_model_loss` with. Inside the context an embedding that is tied to the head
    uses `SparseLookup`, so that the two gradients of the shared weight are added in place. (Only on a CPU, with
    gradients, and if the embedding is a plain one; otherwise this is the head's plain weight.)"""
    weight: Any = head.weight
    shares = weight.device.type == "cpu" and torch.is_grad_enabled() and is_exact_embedding(embedding)
    if not shares or embedding.weight is not weight:
        yield weight
        return
    rows, projection = SharedWeight.apply(weight)
    install_kernel(embedding, SparseLookup(rows, embedding.padding_idx))
    try:
        yield projection
    finally:
        remove_kernels(embedding, SparseLookup)


class SharedWeight(torch.autograd.Function):
    """Returns one weight twice: to look rows up and to project. The sparse gradient of the rows is added to that of the
    projection in place; a dense one, nearly all zeros, would take more memory than anything else in a step."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weight, (vocabulary, width), for the lookup and for the projection."""
        ctx.set_materialize_grads(False)
        return weight.detach(), weight.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        """Adds the sparse gradient of the lookup to that of the projection, in place."""
        rows, projection = gradients
        if rows is None or projection is None:
            return projection if rows is None else rows.to_dense()
        return projection.add_(rows)


def check_token_labels(labels: Tensor, x: Tensor, vocab_size: int) -> None:
    """Raises ValueError unless labels: (batch, length) has one label for each token of x: (batch, length, width), and
    every label is a token of the vocabulary or -100."""
    if labels.shape != x.shape[:2]:
        raise ValueError(
            f"labels are {tuple(labels.shape)}, but the text is {tuple(x.shape[:2])}: pass one label for each token"
        )
    check_label_ids(labels, vocab_size)


def check_label_ids(labels: Tensor, vocab_size: int) -> None:
    """Raises ValueError for a label that is no token of the vocabulary; only on a CPU, where the check does not have to
    wait for a GPU."""
    if labels.device.type != "cpu":
        return
    known = labels[labels != IGNORE_INDEX]
    if not known.numel():
        return
    low, high = int(known.min()), int(known.max())
    if high >= vocab_size or low < 0:
        wrong = high if high >= vocab_size else low
        raise ValueError(
            f"label {wrong} is no token of a vocabulary of {vocab_size}: use the tokenizer that belongs to the decoder"
        )


class ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the summed loss. The gradients are computed in the forward pass, while a chunk's logits are in memory:

        d loss / d logits = softmax(logits) - (1 - e) onehot(label) - e / V

    for a smoothing of e over V tokens (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float) -> Tensor:
        """Returns the summed loss of x: (tokens, width) against labels: (tokens,), none of which is -100."""
        wanted = [bool(need) for need in ctx.needs_input_grad[:3]]
        x_gradients: list[Tensor] = []
        weight_gradient = torch.empty_like(weight) if wanted[1] else None
        bias_gradient = torch.zeros_like(bias) if wanted[2] and bias is not None else None
        total = x.new_zeros((), dtype=torch.float32 if x.dtype != torch.float64 else x.dtype)
        input_type = x.dtype
        x, kernel, offset = cast_operands(x, weight, bias)
        parts = count_chunks(x, weight)
        with torch.autocast(x.device.type, enabled=False):
            for number, (part, targets) in enumerate(zip(x.chunk(parts), labels.chunk(parts), strict=True)):
                loss, slope = compute_loss_and_gradient(linear(part, kernel, offset), targets, smoothing, any(wanted))
                total += loss
                if slope is None:
                    continue
                slope = slope.to(kernel.dtype)
                if wanted[0]:
                    x_gradients.append(slope @ kernel)
                if weight_gradient is not None:
                    add_product(weight_gradient, slope.T, part, begun=number > 0)
                if bias_gradient is not None:
                    bias_gradient += slope.sum(0)
                del slope  # frees its memory before the next chunk's logits
        ctx.gradients = (torch.cat(x_gradients).to(input_type) if wanted[0] else None, weight_gradient, bias_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the gradients of the forward pass. Raises RuntimeError on a second backward of the same loss."""
        (outer,) = gradients
        if ctx.gradients is None:
            raise RuntimeError("the loss's gradients were used up by a first backward: call the model again")
        # without another reference to them, autograd adds a tied embedding's gradient in place
        made, ctx.gradients = ctx.gradients, None
        scaled = (None if g is None else g.mul_(outer.to(g.dtype)) for g in made)
        return (*scaled, None, None)


def count_chunks(x: Tensor, weight: Tensor) -> int:
    """Counts the chunks, which are of nearly equal size: a short last one would read all of W for few tokens."""
    return 1 + len(x) * len(weight) // LOGITS_PER_CHUNK.get(x.device.type, LOGITS_PER_CHUNK["cpu"])


def cast_operands(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Casts the operands to the dtype in which a linear layer computes: autocast's, or else the weight's."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def add_product(total: Tensor, a: Tensor, b: Tensor, begun: bool) -> None:
    """Adds a b to `total` in place; unless `begun`, `total` is uninitialized and is overwritten."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=1 if begun else 0)
    elif begun:
        total += a @ b
    else:
        total.copy_(a @ b)


def compute_loss_and_gradient(
    logits: Tensor, labels: Tensor, smoothing: float, slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Computes a chunk's summed loss and, if `slope`, its gradient with respect to the logits: (tokens, vocabulary).
    May overwrite the logits."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    rows = torch.arange(len(labels), device=labels.device)
    expected = (1 - smoothing) * logits[rows, labels]
    if smoothing:
        expected = expected + smoothing * logits.mean(dim=1)
    likeliest = logits.amax(dim=1)
    # on a CPU a new tensor of this size takes longer than the softmax: its memory has to be mapped
    probabilities = torch.softmax(logits, dim=1, out=logits if logits.device.type == "cpu" else None)
    # the likeliest token's probability is at least 1 / V: its logarithm is exact, and with it the normalizer
    normalizer = likeliest - probabilities.amax(dim=1).log()
    loss = (normalizer - expected).sum()
    if not slope:
        return loss, None
    if smoothing:
        probabilities -= smoothing / logits.shape[1]
    probabilities[rows, labels] -= 1 - smoothing
    return loss, probabilities
