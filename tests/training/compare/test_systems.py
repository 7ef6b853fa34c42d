"""A system is trained with what the recipe says of its own parts."""

from pathlib import Path

from plait.training.compare.systems import build_systems

from .made_rows import build_experiment


def test_settings_of_parts_that_a_system_lacks_are_left_out(tmp_path: Path) -> None:
    rates = {"text": 1e-4, "image": 2e-4, "fusion": 3e-4, "head": 4e-4, "bias": 5e-4}
    recipe = build_experiment(tmp_path).recipe
    recipe.training |= {"learning_rates": rates, "frozen": ["text", "image"], "ogm_alpha": 0.1}
    systems = {system.name: system.build_training_recipe(recipe, 3) for system in build_systems(recipe)}
    alone, both = systems["text"].training, systems["early"]
    assert alone["learning_rates"] == {name: rate for name, rate in rates.items() if name != "image"}
    assert alone["frozen"] == ["text"] and "ogm_alpha" not in alone
    assert both.training["learning_rates"] == rates and both.training["frozen"] == ["text", "image"]
    assert both.training["ogm_alpha"] == 0.1 and both.seed == 3
    assert alone["max_steps"] == both.training["max_steps"] == 1
