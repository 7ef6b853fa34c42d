"""The generator of the site's pages, as a module: docs/ is no package."""

import importlib.util
from types import ModuleType

from .pages import ROOT


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plait_docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
