"""Exports a model: its graphs, checked against it, the files of its processor and a script that uses them."""

import shutil
import tempfile
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

from torch.onnx import OnnxExporterError

from ...processing import PlaitProcessor
from ..recipes.errors import RecipeError, RunError
from .checking import check_graph
from .formats import Format, Runner, find_export_format
from .generating import check_generation
from .graphs import Graph
from .loading import load_exportable
from .registry import build_graphs
from .script import write_script


class Exported(NamedTuple):
    """What an export wrote. folder: where; differences: by file, the largest difference from the model's outputs, of
    the largest number (or of 1); sizes: by file, in bytes, with its weights."""

    folder: Path
    differences: dict[str, float]
    sizes: dict[str, int]


def main_export(
    model_name_or_path: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    to: str = "onnx",
    task: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Exports the model of a run folder, a plait folder or a pretrained checkpoint, as `export_model` does.

    Args:
        model_name_or_path: the folder or Hub id.
        output: the folder to write; default: the name of the model's folder, with -onnx (or other format) behind it.
        to: "onnx", "torch" or "openvino".
        task: the task of the recipe whose class to load a checkpoint of another library as; default: by its own class.
        overwrite: replace a folder that is not empty.

    Raises:
        RecipeError: a model that cannot be loaded or exported, a missing package, a folder that exists.
        RunError: a graph that differs from the model.
    """
    reference = fspath(model_name_or_path)
    find_export_format(to)
    folder = Path(output or f"{Path(reference).name}-{to}").expanduser()
    check_export_folder(folder, overwrite)
    model, processor = load_exportable(reference, task)
    return export_model(model, processor, folder, to=to, overwrite=overwrite)


def export_model(
    model: Any,
    processor: PlaitProcessor | None,
    output: str | PathLike[str],
    to: str = "onnx",
    overwrite: bool = False,
) -> Exported:
    """Exports a model in evaluation mode and single precision: graphs with dynamic numbers of rows, tokens and items,
    each compared with the model on three other sizes; the processor's files; the script `predict.py`, which uses them
    without plait. Nothing is written unless every graph equals the model to 1e-4.

    Raises RecipeError and RunError as `main_export` does. The model is not changed.
    """
    kind, folder = find_export_format(to), Path(output).expanduser()
    if to == "torch" and model.can_generate():
        raise RecipeError(
            f"--to torch cannot hold the cache of {type(model).__name__}: torch.export bounds an axis by what it was "
            "traced with, and a cache begins empty; use --to onnx or --to openvino"
        )
    check_export_folder(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    differences: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        written = Path(place) / "files"
        written.mkdir()
        runners: dict[str, Runner] = {}
        graphs = build_graphs(model)
        for graph in graphs:
            path = written / kind.file.format(graph.name)
            write_graph(kind, graph, path)
            runners[graph.name] = kind.load(graph, path)
            differences[path.name] = check_graph(graph, runners[graph.name])
        if model.can_generate():
            check_generation(model, graphs, runners)
        write_companions(model, processor, written, to)
        if folder.exists():
            shutil.rmtree(folder)
        written.rename(folder)
    return Exported(folder, differences, measure_sizes(folder, differences))


def write_graph(kind: Format, graph: Graph, path: Path) -> None:
    """Writes the file of a graph. Raises RunError for a graph that torch or the format cannot record, with the
    reason."""
    try:
        kind.write(graph, graph.trace(), path)
    except (RuntimeError, TypeError, ValueError, OnnxExporterError) as error:
        causes: list[BaseException] = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        reason = " ".join(str(causes[-1]).split("\n")[:3]) or type(error).__name__
        raise RunError(f"{graph.name} cannot be recorded as a graph: {reason}") from error


def write_companions(model: Any, processor: PlaitProcessor | None, folder: Path, to: str) -> None:
    """Writes what a graph is used with: config, processor and, for ONNX Runtime, the script."""
    model.config.save_pretrained(folder)
    if processor is None:
        return
    if to != "onnx" or not write_script(model, processor, folder):
        processor.save_pretrained(folder)


def check_export_folder(folder: Path, overwrite: bool) -> None:
    """Raises RecipeError for a folder that is not empty, unless it is to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RecipeError(f"{folder} exists and is not empty: name another folder, or replace it with --overwrite")


def measure_sizes(folder: Path, names: dict[str, float]) -> dict[str, int]:
    """Returns the size of each graph in bytes, with the files of its weights."""
    return {
        name: sum(file.stat().st_size for file in folder.glob(f"{Path(name).stem}.*") if file.suffix != ".json")
        for name in names
    }
