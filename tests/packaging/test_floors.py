"""A folder imports only folders below it, and no files import one another in a circle, wherever an import stands."""

import ast
from graphlib import TopologicalSorter

import pytest

from .test_imports import ROOT, imports_anywhere, texts, trees

# bottom first; the rooms of one floor do not import one another
FLOORS = {
    "modeling": (
        "outputs",
        "inputs",
        "graphs",
        "kernels",
        "core",
        "losses",
        "towers fusion",
        "generation diffusion",
        "heads",
        "checkpoints.conversion",
        "checkpoints.families",
        "checkpoints",
        "composition",
        "adaptation",
        "backbone",
        "tasks",
        "attribution",
        "auto",
    ),
    "training": (
        "storage",
        "recipes",
        "parameters",
        "data",
        "streams",
        "metrics",
        "optimization",
        "tasks",
        "trainer",
        "rewards",
        "explanations",
        "reports",
        "runs",
        "multitask compare pipelines prediction proposals exporting launching",
        "search diagnosis",
        "serving",
        "commands",
        "cli sentence_module",
    ),
}
ROOMS = {
    layer: {room: n for n, rooms in enumerate(floors) for room in rooms.split()} for layer, floors in FLOORS.items()
}


def room(module: str) -> str:
    """`plait.modeling.checkpoints.families.bert` -> checkpoints.families; `plait.training.cli` -> cli."""
    _, layer, *path = module.split(".")
    return max((name for name in ROOMS[layer] if ".".join((*path, "")).startswith(f"{name}.")), key=len)


def is_face(module: str) -> bool:
    return (ROOT.joinpath(*module.split(".")[1:]) / "__init__.py").is_file()


def own_imports(module: str) -> set[str]:
    return imports_anywhere(module) & set(texts()) - {module}


@pytest.mark.parametrize("layer", FLOORS)
def test_a_folder_imports_only_folders_below_it(layer: str) -> None:
    inside = [module for module in texts() if module.startswith(f"plait.{layer}.")]
    floors = ROOMS[layer]
    upward = {
        (module, target)
        for module in inside
        for target in own_imports(module)
        if target.startswith(f"plait.{layer}.")
        and room(module) != room(target)
        and floors[room(target)] >= floors[room(module)]
    }
    assert len(inside) > len(floors)
    assert not upward


@pytest.mark.parametrize("layer", FLOORS)
def test_every_floor_is_there(layer: str) -> None:
    """So that a folder that goes is taken off the list, and a new one put on it."""
    assert {room(module) for module in texts() if module.startswith(f"plait.{layer}.")} == set(ROOMS[layer])


def test_no_files_import_one_another_in_a_circle() -> None:
    """Imports inside functions and for the checker count too; what a face hands on is imported from its file."""
    graph = {module: own_imports(module) for module in texts() if not is_face(module)}
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_imports_inside_functions_are_of_other_libraries() -> None:
    """Those that are optional or heavy: the package's own modules are imported at the top of a file."""
    inside = {
        (module, ast.unparse(statement))
        for module, tree in trees().items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for statement in ast.walk(function)
        if isinstance(statement, ast.ImportFrom) and (statement.level or (statement.module or "").startswith("plait"))
    }
    assert not inside


def test_faces_define_nothing() -> None:
    """A folder's `__init__.py` says what lives there and hands names on; those of the two lazy layers look names up."""
    allowed = {"__getattr__", "__dir__"}
    defined = {
        (module, node.name)
        for module, tree in trees().items()
        if is_face(module)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in allowed
    }
    assert not defined
    assert not [module for module in texts() if is_face(module) and not ast.get_docstring(trees()[module])]


def test_no_folder_has_more_than_24_files() -> None:
    """But for the two that hold files of one kind, to which a family or a strategy more is one more."""
    shelves = {"plait.modeling.checkpoints.families", "plait.modeling.fusion.strategies"}
    counts: dict[str, int] = {}
    for module in texts():
        folder = module if is_face(module) else module.rpartition(".")[0]
        counts[folder] = counts.get(folder, 0) + 1
    assert counts["plait.modeling.core"] > 5
    assert shelves < set(counts)
    assert not {folder: count for folder, count in counts.items() if count > 24 and folder not in shelves}
