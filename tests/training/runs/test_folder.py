"""Folders of runs: made, overwritten if asked, resumed with their own recipe alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from plait.training.recipes.errors import RecipeError
from plait.training.recipes.files import save_recipe
from plait.training.recipes.schema import Recipe
from plait.training.runs.folder import FolderKind, find_last_checkpoint, write_json
from plait.training.runs.recipe import build_recipe

RUN, COMPARED = FolderKind("run", "recipe.yaml"), FolderKind("comparison", "compare.yaml", ("seed",))


@pytest.fixture
def recipe() -> Recipe:
    return build_recipe({"model": {"text": "a/model"}, "data": {"source": "rows.csv"}, "seed": 3})


def test_a_new_folder_holds_its_recipe(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    RUN.claim(folder, recipe, overwrite=False, resume=False, saves=False)
    assert not folder.exists()
    RUN.claim(folder, recipe, overwrite=False, resume=False)
    assert RUN.marks(folder) and not COMPARED.marks(folder) and RUN.read_recipe(folder) == recipe


def test_only_a_marked_folder_is_overwritten_and_only_if_asked(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    RUN.claim(folder, recipe, overwrite=False, resume=False)  # an empty folder is nobody's
    (folder / "old").touch()
    with pytest.raises(RecipeError, match="run exists: --overwrite replaces it"):
        RUN.claim(folder, recipe, overwrite=False, resume=False)
    RUN.claim(folder, recipe, overwrite=True, resume=False, saves=False)
    assert (folder / "old").exists()
    RUN.claim(folder, recipe, overwrite=True, resume=False)
    assert not (folder / "old").exists() and RUN.marks(folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    for other in (link, tmp_path):
        with pytest.raises(RecipeError, match="is not the folder of a run of plait, and is not overwritten"):
            RUN.claim(other, recipe, overwrite=True, resume=False)
    (tmp_path / "recipe.yaml").write_text("model: {text: a/model}")
    assert not RUN.marks(tmp_path)  # somebody's recipe, without plait's version


def test_a_folder_is_resumed_with_its_own_recipe(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not the folder of a run: there is nothing to resume"):
        RUN.claim(tmp_path, recipe, overwrite=False, resume=True)
    for kind in (RUN, COMPARED):
        save_recipe(recipe, tmp_path / kind.recipe_file, "1.0")
        (tmp_path / "old").touch()
        kind.claim(tmp_path, recipe, overwrite=False, resume=True)
        assert (tmp_path / "old").exists()
    other = replace(recipe, seed=4)
    with pytest.raises(RecipeError, match=r"started with another recipe \(seed: 3 there, 4 here\): resume the run"):
        RUN.claim(tmp_path, other, overwrite=False, resume=True)
    COMPARED.claim(tmp_path, other, overwrite=False, resume=True, saves=False)
    assert COMPARED.read_recipe(tmp_path).seed == 3
    COMPARED.claim(tmp_path, other, overwrite=False, resume=True)
    assert COMPARED.read_recipe(tmp_path).seed == 4 and RUN.read_recipe(tmp_path).seed == 3


def test_the_last_checkpoint_is_that_of_the_last_step(tmp_path: Path) -> None:
    assert find_last_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert find_last_checkpoint(tmp_path) is None
    for step in (9, 10):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir()
    assert find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoints" / "checkpoint-10")


def test_plain_values_are_written_as_they_are_read(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"grüße": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "grüße": [\n    1,\n    null\n  ]\n}\n'
