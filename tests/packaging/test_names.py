"""A name means one thing in the whole package."""

import ast
from collections import defaultdict

from .test_imports import texts, trees

FAMILIES = "plait.modeling.checkpoints.families."  # every family's file has the same few tables
EVERYWHERE = {"logger", "__all__", "__version__", "LAZY"}


def defined_names(tree: ast.Module) -> set[str]:
    """The names that a module's own statements define at its top level; what it imports does not count."""
    names: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.add(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names |= {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return {name for name in names if not name.startswith("__get") and name != "__dir__"} - EVERYWHERE


def test_a_top_level_name_is_defined_in_one_file() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for module, tree in trees().items():
        for name in defined_names(tree):
            places[name].add(FAMILIES if module.startswith(FAMILIES) else module)
    assert len(places) > 500
    assert not {name: sorted(modules) for name, modules in places.items() if len(modules) > 1}


def test_every_file_says_what_it_is_for() -> None:
    assert texts()
    assert not [module for module, tree in trees().items() if not ast.get_docstring(tree)]
