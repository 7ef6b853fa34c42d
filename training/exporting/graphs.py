"""A graph to export: a function of tensors, with inputs of any size to trace and to check it by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .samples import TRACED, Sample, SampleSize

MakeSample = Callable[[SampleSize, torch.Generator], Sample]


class GraphFunction(nn.Module):
    """A function of a model's tensors in a fixed order, which returns a tuple of tensors."""

    def __init__(self, model: nn.Module, names: Sequence[str], compute: Callable[[dict[str, Tensor]], Any]) -> None:
        super().__init__()
        self.model, self.names, self.compute = model, tuple(names), compute

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs of the tensors, given in the order of `names`."""
        return tuple(self.compute(dict(zip(self.names, tensors, strict=True))))


class Graph(NamedTuple):
    """A part of a model that becomes one file.

    name: of the file, as optimum names it ("model", "encoder_model", ...); function: of the tensors in `axes`, in that
    order; outputs: names of what it returns; make_sample: makes inputs of a size; padded: by output, the input that is
    0 at padding, (batch, tokens), whose numbers mean nothing, and the output's axis of tokens.
    """

    name: str
    function: GraphFunction
    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]
    make_sample: MakeSample
    padded: Mapping[str, tuple[str, int]] = {}

    def make_inputs(self, size: SampleSize, seed: int) -> dict[str, Tensor]:
        """Makes inputs of a size; the same ones for the same seed."""
        inputs = self.make_sample(size, torch.Generator().manual_seed(seed)).inputs
        return {name: inputs[name] for name in self.axes}

    @torch.no_grad()
    def trace(self) -> torch.export.ExportedProgram:
        """Records the function as a program that serves every number along the dynamic axes.

        A graph cannot depend on values: packing and every other branch on them is off while it is recorded (see
        `plait.modeling.graphs`), and nothing of the model is changed.
        """
        inputs = self.make_inputs(TRACED, seed=0)
        dynamic = torch.export.Dim.DYNAMIC
        shapes = tuple(dict.fromkeys(self.axes[name], dynamic) for name in inputs)
        return torch.export.export(
            self.function,
            tuple(inputs.values()),
            dynamic_shapes=(shapes,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def build_graph(
    name: str,
    model: nn.Module,
    outputs: Sequence[str],
    make_sample: MakeSample,
    compute: Callable[[dict[str, Tensor]], Any],
    padded: Mapping[str, tuple[str, int]] | None = None,
) -> Graph:
    """Builds a graph whose inputs are those that `make_sample` makes."""
    axes = make_sample(TRACED, torch.Generator().manual_seed(0)).axes
    return Graph(name, GraphFunction(model, tuple(axes), compute), axes, tuple(outputs), make_sample, padded or {})
