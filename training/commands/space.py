"""`plait space`."""

import argparse
from collections.abc import Sequence

from ..recipes.errors import RecipeError
from ..serving.space import write_space


def run_space(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs `plait space`: writes the files of a Space, and prints how to try and to upload them."""
    if overrides:
        raise RecipeError(
            f"space takes no override, such as {overrides[0]}: change the recipe.yaml of the model's folder"
        )
    names = [path.name for path in write_space(options.model, options.folder, options.api)]
    print(f"{', '.join(names)} in {options.folder}")
    print(f"try it: python {options.folder}/app.py")
    print(f"upload it: hf upload NAME/SPACE {options.folder} --repo-type space")
    return 0
