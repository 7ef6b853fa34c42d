"""Compares the file of a graph with the model, on batches of other sizes than the traced one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..recipes.errors import RunError
from .formats import Runner
from .graphs import Graph
from .samples import CHECKED, SampleSize

TOLERANCE = 1e-4  # of the largest number, or of one


def check_graph(graph: Graph, run: Runner) -> float:
    """Returns the largest difference between a file's outputs and the model's over all of `CHECKED`.

    Raises RunError for outputs that differ by more than `TOLERANCE`.
    """
    differences = {size: compare_batch(graph, run, size, seed) for seed, size in enumerate(CHECKED, start=1)}
    worst = max(differences, key=lambda size: differences[size])
    if not differences[worst] <= TOLERANCE:
        raise RunError(
            f"{graph.name}: the exported graph differs from the model by {differences[worst]:.1e} on {worst}, more"
            f" than {TOLERANCE:.0e}: nothing was written"
        )
    return differences[worst]


@torch.no_grad()
def compare_batch(graph: Graph, run: Runner, size: SampleSize, seed: int) -> float:
    """Returns the largest difference between the outputs of a file and of the model for made inputs of this size."""
    tensors = graph.make_inputs(size, seed)
    inputs = {name: value.numpy() for name, value in tensors.items()}
    expected = dict(zip(graph.outputs, graph.function(*tensors.values()), strict=True))
    found = run(inputs)
    return max(
        measure_difference(*hide_padding(graph, name, inputs, (found[name], value.numpy())))
        for name, value in expected.items()
    )


def hide_padding(
    graph: Graph, name: str, inputs: Mapping[str, NDArray[Any]], values: Sequence[NDArray[Any]]
) -> list[NDArray[Any]]:
    """Returns two values of an output without the tokens that are padding."""
    if name not in graph.padded or values[0].shape != values[1].shape:
        return list(values)
    masked, axis = graph.padded[name]
    rows = [value.swapaxes(1, axis) for value in values]
    mask = inputs[masked][:, -rows[1].shape[1] :] != 0
    return [value[mask] for value in rows]


def measure_difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Returns max|a - b| / max(1, max|b|); infinity for another shape, or numbers that are not finite in both."""
    if found.shape != expected.shape or not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    if not finite.any():
        return 0.0
    a, b = (np.asarray(value, dtype=np.float64)[finite] for value in (found, expected))
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))
