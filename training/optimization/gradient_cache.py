"""Contrastive batches of any size in the memory of a small one (Gao et al. 2021, https://arxiv.org/abs/2101.06983):
vectors of all chunks without gradients, the loss and its gradient for the vectors, then each chunk once more with them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from ...modeling.core.distributed import is_distributed
from ...modeling.tasks.retrieval import PlaitForRetrieval
from ...modeling.tasks.retrieval_sides import SideEmbeddings


class RandomState(NamedTuple):
    """What dropout draws from, on the CPU and on the accelerator in use."""

    cpu: Tensor
    device: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> "RandomState":
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device, device)


class GradientCache(NamedTuple):
    """loss: a scalar; gradients: (batch, width) for each side's vectors; states: before each chunk."""

    loss: Tensor
    gradients: dict[str, Tensor]
    states: list[RandomState]


def cached_backward(
    model: PlaitForRetrieval,
    inputs: Mapping[str, Any],
    rows: int,
    backward: Callable[[Tensor], object] = Tensor.backward,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """Add the gradients of a batch's contrastive loss to the parameters, and return the loss, a scalar.

    The same gradients as from `model(**inputs).loss.backward()`, but for the order of sums: chunk for chunk, dropout
    draws in the second run what it drew in the first. A tower that norms over its batch (a convolutional one, not
    frozen) norms over chunks, and counts each of them twice in its running statistics.

    Args:
        inputs: of the model's `forward`.
        rows: rows a chunk.
        backward: makes the gradients of the loss (an accelerator's, which may scale it).
        autocast: a context in which the towers run.

    Raises:
        ValueError: fewer than one row a chunk, or inputs of which the number of rows cannot be told.
    """
    if rows < 1:
        raise ValueError(f"a chunk of {rows} rows: expected at least one")
    numbers = (inputs.get("groups"), inputs.get("negative_groups"))
    given = {name: inputs[name] for name in inputs if name not in ("groups", "negative_groups", "return_loss")}
    cache = compute_vector_gradients(model, given, numbers, rows, backward, autocast)
    after = RandomState.capture(model.device)
    start = 0
    for chunk, state in zip(split_chunks(given, rows), cache.states, strict=True):
        state.restore(model.device)
        with autocast():
            again = model.embed(chunk, every=True)
        end = start + len(next(iter(again.values())).vectors)
        passed = [(again[side].vectors, grad[start:end]) for side, grad in cache.gradients.items()]
        trained = [(vectors, grad) for vectors, grad in passed if vectors.requires_grad]
        if trained:
            torch.autograd.backward([vectors for vectors, _ in trained], [grad for _, grad in trained])
        start = end
    after.restore(model.device)
    return cache.loss


def compute_vector_gradients(
    model: PlaitForRetrieval,
    inputs: Mapping[str, Any],
    numbers: tuple[Tensor | None, Tensor | None],
    rows: int,
    backward: Callable[[Tensor], object],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> GradientCache:
    """The loss and its gradients for the vectors. Nothing else of the chunks outlives it but their random states.

    numbers: `groups` and `negative_groups`.
    """
    states, embedded = [], []
    with torch.no_grad():
        for chunk in split_chunks(inputs, rows):
            states.append(RandomState.capture(model.device))
            with autocast():
                embedded.append(model.embed(chunk, every=True))
    sides = {side: join_chunks([chunk.pop(side) for chunk in embedded]) for side in list(embedded[0])}
    loss = model.contrast(sides, *numbers)
    backward(loss)
    gradients = {side: whole.vectors.grad for side, whole in sides.items() if whole.vectors.grad is not None}
    return GradientCache(loss.detach(), gradients, states)


def join_chunks(chunks: list[SideEmbeddings]) -> SideEmbeddings:
    """The chunks of one side as one, its vectors a leaf for gradients."""
    vectors = torch.cat([chunk.vectors for chunk in chunks]).requires_grad_()
    present, groups = torch.cat([chunk.present for chunk in chunks]), torch.cat([chunk.groups for chunk in chunks])
    return SideEmbeddings(vectors, present, groups)


def split_chunks(inputs: Mapping[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    """The inputs of a batch, some rows at a time; of pictures that rows name by number, those that these rows name."""
    batch = count_rows(inputs)
    for start in range(0, batch, rows):
        yield select_chunk(inputs, slice(start, min(start + rows, batch)), batch)


def select_chunk(inputs: Mapping[str, Any], rows: slice, batch: int) -> dict[str, Any]:
    """Some rows of the inputs; what has no rows (a flag, None) stays."""
    chunk: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Mapping):
            chunk[name] = select_chunk(value, rows, batch)
        elif isinstance(value, Tensor) and not has_image_indices(inputs, name):
            if len(value) != batch:
                raise ValueError(f"{name} has {len(value)} rows in a batch of {batch}: it cannot be cut into chunks")
            chunk[name] = value[rows]
        elif not isinstance(value, Tensor):
            chunk[name] = value
    for name in [name for name in inputs if isinstance(inputs[name], Tensor) and has_image_indices(inputs, name)]:
        indices = chunk[find_indices_name(name)]
        used, places = indices.clamp(min=0).unique(return_inverse=True)
        chunk[name] = inputs[name][used]
        chunk[find_indices_name(name)] = torch.where(indices >= 0, places, -1)
    return chunk


def find_indices_name(name: str) -> str:
    """The argument that says which row shows which of these pictures."""
    return name.replace("pixel_values", "image_indices")


def has_image_indices(inputs: Mapping[str, Any], name: str) -> bool:
    """Whether rows name these pictures by number."""
    return name.endswith("pixel_values") and inputs.get(find_indices_name(name)) is not None


def count_rows(inputs: Mapping[str, Any]) -> int:
    """The rows of a batch.

    Raises ValueError where nothing tells.
    """
    for name, value in inputs.items():
        if isinstance(value, Tensor) and not has_image_indices(inputs, name):
            return len(value)
        if isinstance(value, Mapping) and any(isinstance(part, (Tensor, Mapping)) for part in value.values()):
            return count_rows(value)
    raise ValueError(f"nothing in the batch tells how many rows it has: {', '.join(inputs) or 'no inputs'}")


def average_gradients(model: torch.nn.Module) -> None:
    """The mean of the gradients over all processes, for parameters whose gradients no wrapper exchanges."""
    if not is_distributed():
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
        parameter.grad /= distributed.get_world_size()
