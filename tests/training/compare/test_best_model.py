"""The folder of the best fusion: trained once, and anew when its recipe changes."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plait import PlaitForClassification
from plait.training.compare.best_model import is_saved, save_best_model
from plait.training.compare.comparison import COMPARISON_FOLDER
from plait.training.compare.experiment import Experiment
from plait.training.compare.summary import Comparison, summarize_comparison
from plait.training.compare.trials import TrialResult, list_trials
from plait.training.recipes.files import save_recipe
from plait.training.runs.claim import ClaimedFolder

from .made_rows import build_experiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    fields: dict[str, Any] = {"compare__audit": False, "compare__seeds": [3, 1], "metrics": ["accuracy"]}
    fields |= {"data__validation_fraction": 0.25, "training__save_strategy": "steps", "training__save_steps": 1}
    return build_experiment(tmp_path_factory.mktemp("best"), **fields)


@pytest.fixture(scope="module")
def comparison(experiment: Experiment) -> Comparison:
    """Of answers that are right for `late` alone."""
    facts = {"parameters": 1, "trainable": 1, "seconds": 0.0, "steps": 1}
    answers = {}
    for trial in list_trials(experiment):
        rows = experiment.find_test_rows(trial.fold)
        right = experiment.truth[rows] if trial.system.name == "late" else np.zeros(len(rows), dtype=int)
        answers[trial.name] = TrialResult(rows, {"": np.eye(3, dtype=np.float32)[right]}, facts)
    return summarize_comparison(experiment, answers)


def test_the_best_is_trained_once_and_anew_for_another_recipe(
    experiment: Experiment, comparison: Comparison, tmp_path: Path
) -> None:
    changed = copy.copy(experiment)
    changed.recipe = replace(experiment.recipe, training={**experiment.recipe.training, "learning_rate": 0.02})
    recipe = experiment.systems[3].build_training_recipe(experiment.recipe, 3)
    with ClaimedFolder(COMPARISON_FOLDER, replace(experiment.recipe, output_dir=str(tmp_path / "c"))) as whole:
        whole.start()
        folder = tmp_path / "c" / "best"
        save_best_model(experiment, comparison, whole, "plait compare")
        assert PlaitForClassification.from_pretrained(folder).config.fusion_config.strategy == "late"
        card = (folder / "README.md").read_text()
        assert "# best" in card and "plait compare" in card and "late" in card
        assert "30 rows for train" in card and "Seed 3" in card
        assert not (folder / "checkpoints").exists()
        assert is_saved(folder, recipe)
        (folder / "kept").touch()
        save_best_model(experiment, comparison, whole, "plait compare")
        assert (folder / "kept").exists()
        save_best_model(changed, comparison, whole, "plait compare")
    assert not (folder / "kept").exists() and not is_saved(folder, recipe)
    assert is_saved(folder, experiment.systems[3].build_training_recipe(changed.recipe, 3))
    assert sorted(path.name for path in whole.place.iterdir()) == ["best", "compare.yaml", "run.json"]


@pytest.mark.parametrize("missing", ["README.md", "recipe.yaml"])
def test_a_folder_without_its_card_or_recipe_is_not_finished(
    experiment: Experiment, tmp_path: Path, missing: str
) -> None:
    recipe = experiment.systems[3].build_training_recipe(experiment.recipe, 3)
    (tmp_path / "README.md").write_text("a card")
    save_recipe(recipe, tmp_path / "recipe.yaml", "1.0")
    assert is_saved(tmp_path, recipe)
    for other in ({"seed": 4}, {"model": experiment.systems[2].model}, {"training": {"max_steps": 2}}):
        assert not is_saved(tmp_path, replace(recipe, **other))
    (tmp_path / missing).unlink()
    assert not is_saved(tmp_path, recipe)
