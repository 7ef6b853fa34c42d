"""Folders of runs: recognized by their recipe, which only a resumed run may change in a few keys."""

from dataclasses import replace
from pathlib import Path

import pytest

from plait.training.recipes.errors import RecipeError
from plait.training.recipes.files import save_recipe
from plait.training.recipes.schema import Recipe
from plait.training.runs.claim import ClaimedFolder
from plait.training.runs.folder import FolderKind
from plait.training.runs.recipe import build_recipe

RUN, COMPARED = FolderKind("run", "recipe.yaml"), FolderKind("comparison", "compare.yaml", ("seed",))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    content = {"model": {"text": "a/model"}, "data": {"source": "rows.csv"}, "seed": 3}
    return build_recipe({**content, "output_dir": str(tmp_path / "new" / "run")})


def fill(recipe: Recipe, kind: FolderKind = RUN, **options: bool) -> Path:
    """A whole run: the folder is claimed, started and finished."""
    with ClaimedFolder(kind, recipe, **options) as folder:
        folder.start()
        folder.finish()
    return Path(str(recipe.output_dir))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_holds_its_recipe_once_it_has_started(recipe: Recipe, tmp_path: Path) -> None:
    with ClaimedFolder(RUN, recipe) as folder:
        assert folder.path.name == "run.starting" and not folder.place.exists()
        inside = str(folder.checkpoints / "a")
        folder.start()
        assert folder.path == folder.place and not folder.beside(".starting").exists()
        assert folder.rebase(inside) == str(folder.place / "checkpoints/a")
        folder.finish()
    place = folder.place
    assert names(place.parent) == ["run"] and names(place) == ["checksums.json", "recipe.yaml", "run.json"]
    assert RUN.marks(place) and not COMPARED.marks(place) and RUN.read_recipe(place) == recipe


def test_only_a_marked_folder_is_overwritten_and_only_if_asked(recipe: Recipe, tmp_path: Path) -> None:
    place = Path(str(recipe.output_dir))
    place.mkdir(parents=True)
    fill(recipe)  # an empty folder is nobody's
    (place / "old").touch()
    with pytest.raises(RecipeError, match="run exists: --overwrite replaces it"):
        fill(recipe)
    with ClaimedFolder(RUN, recipe, overwrite=True):
        assert (place / "old").exists()
    assert (place / "old").exists()  # nothing was started
    fill(recipe, overwrite=True)
    assert names(place) == ["checksums.json", "recipe.yaml", "run.json"] and names(place.parent) == ["run"]
    fill(replace(recipe, output_dir=str(place / ".." / "run")), overwrite=True)
    assert RUN.marks(place) and names(place.parent) == ["run"]
    link = tmp_path / "link"
    link.symlink_to(place)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "recipe.yaml").write_text("model: {text: a/model}")  # without plait's version
    for other, message in ((link, f"is a link to {place}"), (tmp_path / "foreign", "is not the folder of a run")):
        with pytest.raises(RecipeError, match=message):
            fill(replace(recipe, output_dir=str(other)), overwrite=True)
    assert not RUN.marks(tmp_path / "foreign")


def test_a_folder_is_resumed_with_its_own_recipe(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, output_dir=str(tmp_path))
    with pytest.raises(RecipeError, match="is not the folder of a run: there is nothing to resume"):
        fill(recipe, resume=True)
    for kind in (RUN, COMPARED):
        save_recipe(recipe, tmp_path / kind.recipe_file, "1.0")  # as older versions left it
        (tmp_path / "old").touch()
        fill(recipe, kind, resume=True)
        assert (tmp_path / "old").exists()
    other = replace(recipe, seed=4)
    with pytest.raises(RecipeError, match=r"started with another recipe \(seed: 3 there, 4 here\): resume the run"):
        fill(other, resume=True)
    with ClaimedFolder(COMPARED, other, resume=True):
        assert COMPARED.read_recipe(tmp_path).seed == 3
    fill(other, COMPARED, resume=True)
    assert COMPARED.read_recipe(tmp_path).seed == 4 and RUN.read_recipe(tmp_path).seed == 3


def test_what_changes_no_weight_may_change_when_a_run_is_resumed(recipe: Recipe, tmp_path: Path) -> None:
    place = fill(recipe)
    moved = place.rename(tmp_path / "moved")
    training = {"num_train_epochs": 9, "disable_tqdm": True, "hub_token": "hf_secret"}
    fill(replace(recipe, output_dir=str(moved), training=training), resume=True)
    assert RUN.read_recipe(moved).training == {**training, "hub_token": None}
    with pytest.raises(RecipeError, match=r"training.learning_rate: None there, 0.1 here"):
        fill(replace(recipe, output_dir=str(moved), training={"learning_rate": 0.1}), resume=True)


@pytest.mark.parametrize("content", ["", "a: [", "plait_version: 1\nmodle: {}", "\x00\x01"])
def test_a_damaged_recipe_is_no_dead_end(recipe: Recipe, content: str) -> None:
    place = fill(recipe)
    for copy in (True, False):
        (place / "recipe.yaml").write_text(content)
        if not copy:
            (place / "run.json").write_text(content)
            (place / "checkpoints").mkdir()
        assert RUN.marks(place)
        with pytest.raises(RecipeError, match="exists: --overwrite replaces it, --resume continues it"):
            fill(recipe)
        fill(recipe, resume=True)
        assert RUN.read_recipe(place) == recipe
    (place / "recipe.yaml").write_text(content)
    fill(recipe, overwrite=True)
    assert RUN.read_recipe(place) == recipe
