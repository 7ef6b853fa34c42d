"""The formats of an exported graph: how each is written, and how its file is run."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ..recipes.errors import RecipeError
from .graphs import Graph

Arrays = dict[str, NDArray[Any]]
Runner = Callable[[Mapping[str, NDArray[Any]]], Arrays]


class Format(NamedTuple):
    """How graphs are written and run. packages: what it needs, by import name; file: the name of a graph's file, with
    the graph's name in place of {}."""

    packages: tuple[str, ...]
    file: str
    write: Callable[[Graph, ExportedProgram, Path], None]
    load: Callable[[Graph, Path], Runner]


def write_onnx(graph: Graph, program: ExportedProgram, path: Path) -> None:
    """Writes a graph for ONNX Runtime; weights of more than 1.5 GB stand in a file of their own beside it."""
    inputs = tuple(program.example_inputs[0]) if program.example_inputs else ()
    with quiet_exporter():
        exported: Any = torch.onnx.export(
            program, inputs, dynamo=True, input_names=list(graph.axes), output_names=list(graph.outputs), verbose=False
        )
    name_axes(exported.model.graph, graph)
    exported.save(str(path))


def name_axes(onnx_graph: Any, graph: Graph) -> None:
    """Names the dynamic axes of the inputs and outputs of an ONNX graph as `graph.axes` does."""
    names: dict[str, str] = {}
    for value in onnx_graph.inputs:
        for number, name in graph.axes[value.name].items():
            names.setdefault(str(value.shape[number]), name)
    for value in (*onnx_graph.inputs, *onnx_graph.outputs):
        for number, size in enumerate(value.shape or ()):
            if str(size) in names:
                value.shape[number] = names[str(size)]


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hides what torch's exporter says about libraries that no model of plait needs, and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def load_onnx(graph: Graph, path: Path) -> Runner:
    """Returns the function that runs a file in ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    read = {value.name for value in session.get_inputs()}  # an input that nothing depends on is left out

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        found: Any = session.run(list(graph.outputs), {name: inputs[name] for name in inputs if name in read})
        return dict(zip(graph.outputs, found, strict=True))

    return run


def write_torch(graph: Graph, program: ExportedProgram, path: Path) -> None:
    """Writes a graph for torch alone: `torch.export.load(FILE).module(check_guards=False)`."""
    torch.export.save(program, path)


def load_torch(graph: Graph, path: Path) -> Runner:
    """Returns the function that runs a file by torch."""
    module = torch.export.load(path).module(check_guards=False)  # they take an axis of 0 or 1 for another graph

    @torch.no_grad()
    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        found = module(*(torch.from_numpy(inputs[name]) for name in graph.axes))
        return {name: value.numpy() for name, value in zip(graph.outputs, found, strict=True)}

    return run


def write_openvino(graph: Graph, program: ExportedProgram, path: Path) -> None:
    """Writes a graph for OpenVINO, its weights in single precision in a file beside it, by way of ONNX."""
    import openvino  # pyright: ignore[reportMissingImports]

    onnx = path.with_suffix(".onnx")
    write_onnx(graph, program, onnx)
    openvino.save_model(openvino.convert_model(str(onnx)), str(path), compress_to_fp16=False)
    for file in path.parent.glob(f"{onnx.name}*"):
        file.unlink()


def load_openvino(graph: Graph, path: Path) -> Runner:
    """Returns the function that runs a file in OpenVINO, on the CPU in single precision."""
    import openvino  # pyright: ignore[reportMissingImports]

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    read = {name for value in compiled.inputs for name in value.names}

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        found = compiled({name: value for name, value in inputs.items() if name in read})
        return {name: np.array(found[name]) for name in graph.outputs}

    return run


FORMATS = {
    "onnx": Format(("onnx", "onnxscript", "onnxruntime"), "{}.onnx", write_onnx, load_onnx),
    "torch": Format((), "{}.pt2", write_torch, load_torch),
    "openvino": Format(("onnx", "onnxscript", "openvino"), "openvino_{}.xml", write_openvino, load_openvino),
}


def find_export_format(name: str) -> Format:
    """Returns the format of this name.

    Raises RecipeError for an unknown one, or if a package that it needs is missing.
    """
    if name not in FORMATS:
        raise RecipeError(f"--to {name}: choose one of {', '.join(FORMATS)}")
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        raise RecipeError(f"--to {name} needs {', '.join(missing)}: pip install 'plait[{name}]'")
    return FORMATS[name]
