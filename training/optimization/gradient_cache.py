"""Contrastive batches of any size in the memory of a small one (Gao et al. 2021, https://arxiv.org/abs/2101.06983).

The vectors of all chunks are computed without gradients, then the loss and its gradients with respect to the vectors;
each chunk is run once more to backpropagate these gradients through the towers.
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
    """The states of the random generators that dropout uses, of the CPU and of the accelerator in use."""

    cpu: Tensor
    device: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> "RandomState":
        """Returns the current states."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        """Sets the generators back to these states."""
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device, device)


class GradientCache(NamedTuple):
    """The results of the pass without gradients. loss: a scalar; gradients: (batch, width) for the vectors of each
    side; states: the random states before each chunk."""

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
    """Adds the gradients of a batch's contrastive loss to the parameters, and returns the loss, a scalar.

    They are the gradients of `model(**inputs).loss.backward()` up to the order of summation: dropout uses the same
    random numbers in both passes of a chunk. A tower with batch normalisation (a convolutional one, not frozen)
    normalises over chunks, and counts each of them twice in its running statistics.

    Args:
        inputs: of the model's `forward`.
        rows: number of rows in a chunk.
        backward: computes the gradients of the loss (an accelerator's may also scale it).
        autocast: builds the context in which the towers run.

    Raises:
        ValueError: less than one row in a chunk, or inputs whose number of rows cannot be determined.
    """
    if rows < 1:
        raise ValueError(f"a chunk of {rows} rows: expected at least 1")
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
    """Computes the loss and its gradients with respect to the vectors, and keeps only the random states of the chunks.

    numbers: `groups` and `negative_groups`; the other arguments are those of `cached_backward`.
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
    """Concatenates the chunks of one side; its vectors are a leaf tensor that collects gradients."""
    vectors = torch.cat([chunk.vectors for chunk in chunks]).requires_grad_()
    present, groups = torch.cat([chunk.present for chunk in chunks]), torch.cat([chunk.groups for chunk in chunks])
    return SideEmbeddings(vectors, present, groups)


def split_chunks(inputs: Mapping[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    """Yields the inputs of a batch, `rows` rows at a time, with only the images that these rows refer to."""
    batch = count_rows(inputs)
    for start in range(0, batch, rows):
        yield select_chunk(inputs, slice(start, min(start + rows, batch)), batch)


def select_chunk(inputs: Mapping[str, Any], rows: slice, batch: int) -> dict[str, Any]:
    """Selects some rows of the inputs, and the images that they refer to by number; values without rows (a flag, None)
    are kept.

    Raises ValueError for a tensor that does not have one row for each of the `batch` rows.
    """
    chunk: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Mapping):
            chunk[name] = select_chunk(value, rows, batch)
        elif isinstance(value, Tensor) and not has_image_indices(inputs, name):
            if len(value) != batch:
                raise ValueError(
                    f"{name} has {len(value)} rows in a batch of {batch}, so it cannot be split into chunks: give "
                    "every input one row for each row of the batch"
                )
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
    """Returns the name of the argument that says which of these images each row refers to."""
    return name.replace("pixel_values", "image_indices")


def has_image_indices(inputs: Mapping[str, Any], name: str) -> bool:
    """Returns whether an input holds images that rows refer to by number."""
    return name.endswith("pixel_values") and inputs.get(find_indices_name(name)) is not None


def count_rows(inputs: Mapping[str, Any]) -> int:
    """Counts the rows of a batch.

    Raises ValueError if no input determines their number.
    """
    for name, value in inputs.items():
        if isinstance(value, Tensor) and not has_image_indices(inputs, name):
            return len(value)
        if isinstance(value, Mapping) and any(isinstance(part, (Tensor, Mapping)) for part in value.values()):
            return count_rows(value)
    raise ValueError(
        f"nothing in the batch tells how many rows it has: it holds {', '.join(inputs) or 'no inputs'}, but no tensor "
        "with one entry for each row"
    )


def average_gradients(model: torch.nn.Module) -> None:
    """Averages the gradients over all processes, because no wrapper such as DistributedDataParallel does so here."""
    if not is_distributed():
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
        parameter.grad /= distributed.get_world_size()
