"""The source files of plait, read without importing them, and what each imports from the others."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class OwnImport(NamedTuple):
    """A name that a module imports from another module of plait: where it is defined, as what, and its name here."""

    module: str
    name: str
    alias: str


@dataclass(frozen=True)
class SourceModule:
    """A source file. name: its dotted path inside plait, such as "modeling.core.layers"."""

    name: str
    text: str
    tree: ast.Module
    is_face: bool  # an `__init__.py`

    @property
    def layer(self) -> str:
        """The folder of the package that holds the module."""
        return self.name.partition(".")[0]

    def list_definitions(self) -> dict[str, ast.stmt]:
        """Returns the statements that define the module's own names at its top level, by name."""
        found: dict[str, ast.stmt] = {}
        for statement in self.tree.body:
            for name in iterate_defined_names(statement):
                found.setdefault(name, statement)
        return found

    def list_own_imports(self) -> list[tuple[ast.ImportFrom, str, ast.alias]]:
        """Returns the module's imports from plait: the statement, the module that it names and the name."""
        found: list[tuple[ast.ImportFrom, str, ast.alias]] = []
        for statement in self.tree.body:
            if isinstance(statement, ast.ImportFrom) and statement.level:
                base = self.resolve_base(statement)
                found += [(statement, base, alias) for alias in statement.names]
        return found

    def resolve_base(self, statement: ast.ImportFrom) -> str:
        """Returns the dotted path inside plait that a relative import starts from."""
        parts = self.name.split(".") if self.is_face else self.name.split(".")[:-1]
        above = parts[: len(parts) - statement.level + 1]
        return ".".join([*above, *([statement.module] if statement.module else [])])


def iterate_defined_names(statement: ast.stmt) -> Iterator[str]:
    """Yields the names that a top-level statement defines; what it imports does not count."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))


def list_modules(layer: str) -> list[str]:
    """Returns the names of the files that lie in a layer's own folder."""
    return sorted(path.stem for path in (ROOT / layer).glob("*.py") if path.stem != "__init__")


@cache
def read_module(name: str) -> SourceModule:
    """Reads a module of plait. Raises ValueError if there is none of this name."""
    path = ROOT.joinpath(*filter(None, name.split(".")))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        raise ValueError(f"plait has no module {name!r}: there is no {file}")
    text = file.read_text(encoding="utf-8")
    return SourceModule(name, text, ast.parse(text, str(file)), path.is_dir())


@cache
def find_definition(module: str, name: str) -> tuple[str, str]:
    """Returns the module that defines what `module` knows as `name`, and its name there: modules hand names on.

    A module that is imported whole is its own definition. Raises ValueError for a name that the module does not have.
    """
    source = read_module(module)
    if source.is_face and ROOT.joinpath(*module.split("."), name).is_dir():
        return f"{module}.{name}", name
    if name in source.list_definitions() and not (source.is_face and name == "LAZY"):
        return module, name
    lazy = source.list_definitions().get("LAZY") if source.is_face else None
    table = ast.literal_eval(lazy.value) if isinstance(lazy, ast.Assign) else {}
    if name in table:
        return find_definition(f"{module}{table[name]}".strip("."), name)
    for _, base, alias in source.list_own_imports():
        if (alias.asname or alias.name) == name:
            return find_definition(base, alias.name)
    raise ValueError(f"the module {module} of plait defines no {name!r}")


@cache
def list_imports(module: str) -> list[OwnImport]:
    """Returns the names that a module imports from other modules of plait, each from the file that defines it."""
    return [
        OwnImport(*find_definition(base, alias.name), alias.asname or alias.name)
        for _, base, alias in read_module(module).list_own_imports()
    ]
