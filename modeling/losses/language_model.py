"""Cross-entropy over a vocabulary, in chunks of tokens: the whole of the logits never stands in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.install import ForwardKernel, find_kernel, install_kernel, remove_kernels
from ..kernels.linear import linear
from .cross_entropy import IGNORE_INDEX

LOGITS_PER_CHUNK = {"cpu": 15 * 2**20, "cuda": 40 * 2**20}  # logits at a time: 60 MiB in float32, on a GPU 160


def language_model_loss(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of x W^T + b over the labels that are not -100; zero, not NaN, when all are.

    x: (batch, length, width); weight: (vocabulary, width), bias: (vocabulary,); labels: (batch, length), token ids that
    stand where they are predicted. `num_items_in_batch` divides the sum in the place of their number.
    Raises ValueError for labels that do not stand one for each token, or for one outside the vocabulary.
    """
    labels = labels.to(x.device)
    check_token_labels(labels, x, len(weight))
    kept = labels != IGNORE_INDEX
    count = kept.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    total = ChunkedCrossEntropy.apply(x[kept], weight, bias, labels[kept], label_smoothing)
    return total / (count.to(x.device) if isinstance(count, Tensor) else count)


class SparseLookup(ForwardKernel):
    """Looks tokens up in the rows of `SharedWeight`, with a sparse gradient."""

    def __init__(self, rows: Tensor, padding_idx: int | None) -> None:
        self.rows, self.padding_idx = rows, padding_idx

    def __call__(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.rows, self.padding_idx, sparse=True)


@contextmanager
def share_weight(embedding: Any, head: Any) -> Iterator[Tensor]:
    """The weight with which `language_model_loss` is to be computed; meanwhile the embedding that is tied to it looks
    tokens up so that their two gradients meet in place. (On the CPU alone, and where nothing else replaces the
    embedding's `forward`.)"""
    weight: Any = head.weight
    tied = type(embedding) is nn.Embedding and embedding.weight is weight and weight.device.type == "cpu"
    if not tied or not torch.is_grad_enabled() or find_kernel(embedding) is not None:
        yield weight
        return
    rows, projection = SharedWeight.apply(weight)
    install_kernel(embedding, SparseLookup(rows, embedding.padding_idx))
    try:
        yield projection
    finally:
        remove_kernels(embedding, SparseLookup)


class SharedWeight(torch.autograd.Function):
    """One weight, twice: to look rows up and to project. The rows' gradient, sparse, is added to the projection's in
    place; as a dense one, nearly all zeros, it would be the most memory that a step needs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return weight.detach(), weight.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        rows, projection = gradients
        if rows is None or projection is None:
            return projection if rows is None else rows.to_dense()
        return projection.add_(rows)


def check_token_labels(labels: Tensor, x: Tensor, vocab_size: int) -> None:
    """Raises ValueError for labels that are not one for each of x's (batch, length) tokens, or for a label that is no
    token of the vocabulary."""
    if labels.shape != x.shape[:2]:
        raise ValueError(
            f"labels are {tuple(labels.shape)}, the text is {tuple(x.shape[:2])}: one label for each token"
        )
    check_label_ids(labels, vocab_size)


def check_label_ids(labels: Tensor, vocab_size: int) -> None:
    """Raises ValueError for a label that is no token of the vocabulary; on the CPU alone, where it costs no wait."""
    if labels.device.type != "cpu" or not labels.numel():
        return
    low, high = int(labels.min()), int(labels.max())
    if high >= vocab_size or (low < 0 and low != IGNORE_INDEX):
        wrong = high if high >= vocab_size else low
        raise ValueError(
            f"label {wrong} is no token of a vocabulary of {vocab_size}: the tokenizer does not fit the decoder"
        )


class ChunkedCrossEntropy(torch.autograd.Function):
    """The summed loss; gradients are made with each chunk's logits, while these are there:

        d loss / d logits = softmax(logits) - (1 - e) onehot(label) - e / V

    for a smoothing of e over V tokens (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float) -> Tensor:
        """x: (tokens, width), labels: (tokens,), none of them ignored."""
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
                del slope  # not to stand beside the next chunk's logits
        ctx.gradients = (torch.cat(x_gradients).to(input_type) if wanted[0] else None, weight_gradient, bias_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        if ctx.gradients is None:
            raise RuntimeError("the loss's gradients were used up by a first backward: call the model again")
        # let go of them: autograd then adds a tied embedding's gradient in place
        made, ctx.gradients = ctx.gradients, None
        scaled = (None if g is None else g.mul_(outer.to(g.dtype)) for g in made)
        return (*scaled, None, None)


def count_chunks(x: Tensor, weight: Tensor) -> int:
    """How many chunks of like size (a short last one would read all of W for little)."""
    return 1 + len(x) * len(weight) // LOGITS_PER_CHUNK.get(x.device.type, LOGITS_PER_CHUNK["cpu"])


def cast_operands(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the type in which a linear layer computes here: autocast's, or the weight's."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def add_product(total: Tensor, a: Tensor, b: Tensor, begun: bool) -> None:
    """total + a b in place; `total` holds nothing yet unless `begun`."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=1 if begun else 0)
    elif begun:
        total += a @ b
    else:
        total.copy_(a @ b)


def compute_loss_and_gradient(
    logits: Tensor, labels: Tensor, smoothing: float, slope: bool
) -> tuple[Tensor, Tensor | None]:
    """The summed loss of a chunk and its gradient by the logits, (tokens, vocabulary), which it may overwrite."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    rows = torch.arange(len(labels), device=labels.device)
    expected = (1 - smoothing) * logits[rows, labels]
    if smoothing:
        expected = expected + smoothing * logits.mean(dim=1)
    likeliest = logits.amax(dim=1)
    # on a CPU a new tensor of this size costs more than the softmax: its memory has to be mapped
    probabilities = torch.softmax(logits, dim=1, out=logits if logits.device.type == "cpu" else None)
    # the likeliest token's probability is at least 1 / V: its logarithm is exact, and with it the normaliser
    normaliser = likeliest - probabilities.amax(dim=1).log()
    loss = (normaliser - expected).sum()
    if not slope:
        return loss, None
    if smoothing:
        probabilities -= smoothing / logits.shape[1]
    probabilities[rows, labels] -= 1 - smoothing
    return loss, probabilities
