"""The pretraining objectives."""

import math
from collections.abc import Iterable, Mapping

from .messages import suggest

CONTRASTIVE, MATCHING, MASKED_LM, MASKED_IMAGE, CAPTIONING = OBJECTIVES = (
    "contrastive",
    "matching",
    "masked_lm",
    "masked_image",
    "captioning",
)


def check_objectives(names: Iterable[str]) -> None:
    """Raises ValueError for an unknown objective; the message names the nearest known one."""
    for name in names:
        if name not in OBJECTIVES:
            raise ValueError(f"there is no objective {name!r}{suggest(name, OBJECTIVES)}")


def check_objective_weights(weights: Mapping[str, float]) -> None:
    """Raises ValueError for an unknown objective, or for a weight that is negative or not finite."""
    check_objectives(weights)
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(
                f"the weight of the objective {name!r} is {weight}: expected a finite number of at least 0"
            )
