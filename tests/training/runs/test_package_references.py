"""`package:NAME/FOLDER` looks only into installed packages, and imports none."""

import sys
from pathlib import Path

import pytest

from plait.training.recipes.errors import RecipeError
from plait.training.runs.building import resolve_reference

CODE = "from pathlib import Path\nPath(__file__).with_name('executed').write_text('x')\n"


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the import path that is no installed package, with code and a folder in it."""
    package = tmp_path / "found_by_chance"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_a_folder_that_is_merely_found_is_no_package(found: Path) -> None:
    with pytest.raises(RecipeError, match="the package found_by_chance is not installed"):
        resolve_reference("package:found_by_chance/model")
    assert not (found / "executed").exists()


def test_an_installed_package_is_found_without_being_imported(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = found.parent / "found_by_chance-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: found-by-chance\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("found_by_chance\n")
    assert resolve_reference("package:found_by_chance/model") == str(found / "model")
    assert not (found / "executed").exists() and "found_by_chance" not in sys.modules


@pytest.mark.parametrize("reference", ["yaml/..", "yaml/../yaml/..", "yaml//etc", "yaml/no_such_folder"])
def test_a_path_does_not_lead_outside_the_package(reference: str) -> None:
    with pytest.raises(RecipeError, match="the package yaml has no folder"):
        resolve_reference(f"package:{reference}")


@pytest.mark.parametrize("name", ["os", "no_such_package", "", "..", "os.path", "yaml.loader", "a b", "builtins"])
def test_a_name_that_is_no_installed_package_is_an_error(name: str) -> None:
    with pytest.raises(RecipeError, match="is not installed"):
        resolve_reference(f"package:{name}/x")


def test_other_references_are_left_as_they_are(tmp_path: Path) -> None:
    assert resolve_reference(str(tmp_path)) == str(tmp_path) and resolve_reference(3) == 3
