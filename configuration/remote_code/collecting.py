"""The modules of plait that a saved model uses, found by what each file imports."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from .source_tree import OwnImport, SourceModule, list_imports, list_modules, read_module

# a saved model does not run them: they compose models, read checkpoints of other models, and write its code
LEFT_OUT_MODULES = frozenset(
    (
        "configuration.cards",
        "configuration.remote_code",
        "modeling.checkpoints.families.registry",
        "modeling.checkpoints.sentence_modules",
        "modeling.composition.components",
        "modeling.composition.compose",
        "modeling.composition.from_checkpoint",
        "modeling.composition.image_autoencoding",
        "modeling.composition.image_generation",
        "modeling.composition.retrieval",
    )
)
STAND_IN_MODULE = "configuration.remote_code.left_out"
# the tables from which a model takes the rows that its config names
TABLES = {"modeling.fusion.registry": "FUSIONS", "modeling.towers.registry": "TOWERS"}


@dataclass
class CollectedModules:
    """Modules in an order in which each comes after those that it imports.

    rows: by module, the keys of its table (`TABLES`) to keep.
    """

    rows: Mapping[str, frozenset[str]]
    order: list[SourceModule] = field(default_factory=list)

    def list_imports(self, module: str) -> list[OwnImport]:
        """Returns what a module imports from modules that are kept."""
        unused = find_unused_values(read_module(module), self.rows.get(module))
        return [one for one in list_imports(module) if one.module not in LEFT_OUT_MODULES and one.alias not in unused]

    def list_left_out(self, sources: Iterable[SourceModule]) -> list[str]:
        """Returns the names that these modules import from modules that are left out."""
        imports = (one for source in sources for one in list_imports(source.name))
        return sorted({one.alias for one in imports if one.module in LEFT_OUT_MODULES})


def collect_modules(roots: Iterable[str], rows: Mapping[str, frozenset[str]]) -> CollectedModules:
    """Collects the roots, the modules that they import at any depth, and the configs: a model and its processor, saved
    one after the other, share their file.

    Raises CycleError for files that import one another in a circle.
    """
    found = CollectedModules(rows)
    graph: dict[str, list[str]] = {}
    configs = {f"configuration.{name}" for name in list_modules("configuration")}
    waiting = sorted({*roots, *configs, STAND_IN_MODULE})
    while waiting:
        module = waiting.pop()
        if module not in graph:
            graph[module] = sorted({one.module for one in found.list_imports(module)})
            waiting += graph[module]
    found.order = [read_module(module) for module in TopologicalSorter(dict(sorted(graph.items()))).static_order()]
    return found


def find_dropped_rows(source: SourceModule, kept: frozenset[str] | None) -> list[tuple[ast.expr, ast.expr]]:
    """Returns the rows, key and value, of a module's table that are not kept; None keeps all."""
    if kept is None:
        return []
    table = source.list_definitions().get(TABLES[source.name])
    if not isinstance(table, ast.Assign | ast.AnnAssign) or not isinstance(table.value, ast.Dict):
        return []
    rows = zip(table.value.keys, table.value.values, strict=True)
    return [(key, value) for key, value in rows if key is not None and name_row(key) not in kept]


def name_row(key: ast.expr) -> str:
    """Returns the key of a table's row: a string, or the name of a class."""
    return str(ast.literal_eval(key)) if isinstance(key, ast.Constant) else ast.unparse(key)


def find_unused_values(source: SourceModule, kept: frozenset[str] | None) -> set[str]:
    """Returns the imported names that only dropped rows of the module's table use."""
    dropped = find_dropped_rows(source, kept)
    if not dropped:
        return set()
    nodes = {id(node) for _, value in dropped for node in ast.walk(value)}
    used = {node.id for node in ast.walk(source.tree) if isinstance(node, ast.Name) and id(node) not in nodes}
    return {value.id for _, value in dropped if isinstance(value, ast.Name)} - used
