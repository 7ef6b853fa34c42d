"""Every example starts: it compiles, says how it is used, and what it takes from plait is there."""

import ast
import runpy
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def taken_from_plait(script: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import, those inside functions too."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"), script.name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "plait":
            yield from ((str(node.module), alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((alias.name, "__name__") for alias in node.names if alias.name.split(".")[0] == "plait")


def is_there(module: str, name: str) -> bool:
    """A name of a module, or a module of a package."""
    try:
        found = import_module(module)
    except ModuleNotFoundError:
        return False
    return hasattr(found, name) or (hasattr(found, "__path__") and find_spec(f"{module}.{name}") is not None)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_what_an_example_imports_of_plait_is_there(script: Path) -> None:
    assert [f"{module}.{name}" for module, name in taken_from_plait(script) if not is_there(module, name)] == []


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_an_example_says_how_it_is_used(
    script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: {script.name}" in capsys.readouterr().out


def test_there_are_examples_that_import_plait() -> None:
    """What is looked for above is found."""
    assert len([script for script in EXAMPLES if list(taken_from_plait(script))]) > 5
    assert not is_there("plait", "PlaitForEverything") and not is_there("plait.training.nothing", "train")
