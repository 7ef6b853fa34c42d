"""Registers plait's classes with transformers' Auto classes as soon as both are imported, in any order."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import local
from types import ModuleType
from typing import Any

REGISTER_FUNCTIONS = {
    ".configuration.plait": "register_configs",
    ".modeling.auto": "register_auto_classes",
    ".processing.auto": "register",
}


AUTO_CLASSES_MODULE = "transformers.models.auto.configuration_auto"  # which every Auto class imports


def register_with_transformers() -> None:
    """Registers plait's classes at once if transformers' Auto classes are imported, else as soon as they are, by
    whomever: transformers imports its own modules when they are first used.

    `import plait` alone is so cheap that a command line can print its help: transformers and torch take seconds.
    """
    if AUTO_CLASSES_MODULE in sys.modules:
        register_classes()
    else:
        sys.meta_path.insert(0, TransformersWatch())


def register_classes() -> None:
    """Imports configs, models and processors, and registers them; calling it again changes nothing."""
    for module, function in REGISTER_FUNCTIONS.items():
        getattr(import_module(module, __package__), function)()


class TransformersWatch(MetaPathFinder):
    """Finds transformers' and plait's modules as Python does, and registers plait's classes when the Auto classes are
    there.

    It waits for the end of the outermost of these imports: inside one, modules are half imported.
    """

    def __init__(self) -> None:
        self.imports = local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the module's spec, whose loader reports the end of the import; None for modules of others."""
        if fullname.partition(".")[0] not in ("transformers", __package__):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = self.watch(loader.exec_module)
        return spec

    def watch(self, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        """Returns the function that executes a module, followed by the registration if this import is the outermost."""

        def execute_watched(module: ModuleType) -> None:
            self.imports.depth = getattr(self.imports, "depth", 0) + 1
            try:
                execute(module)
            finally:
                self.imports.depth -= 1
            if not self.imports.depth and AUTO_CLASSES_MODULE in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register_classes()

        return execute_watched
