"""A shipped recipe fits the device that it is run on."""

import pytest

from plait.training.optimization.arguments import PlaitTrainingArguments
from plait.training.recipes.files import find_recipe, read_yaml
from plait.training.runs.recipe import load_recipe

HALF = [
    name
    for name in ("easy_vqa_pictures", "emoji_pictures", "image_autoencoding", "image_generation")
    if read_yaml(find_recipe(name))["training"].get("bf16")
]


@pytest.mark.parametrize("name", HALF)
def test_a_shipped_recipe_in_bfloat16_begins_on_this_machine(name: str) -> None:
    """transformers refuses bf16 without a GPU that has it, unless use_cpu says that the CPU is meant."""
    training = load_recipe(name).training
    kept = {key: training[key] for key in ("bf16", "use_cpu") if key in training}
    PlaitTrainingArguments(output_dir="run", report_to="none", **kept)  # raises what a run would stop with


def test_bfloat16_that_the_user_asks_for_stays() -> None:
    assert len(HALF) == 4
    assert load_recipe("image_generation", {"training.bf16": True}).training["bf16"] is True
    chosen = load_recipe("image_generation", {"training.use_cpu": True}).training
    assert (chosen["bf16"], chosen["use_cpu"]) == (True, True)
    assert load_recipe("image_generation", {"training.bf16": False}).training["bf16"] is False
