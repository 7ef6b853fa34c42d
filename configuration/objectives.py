"""What a plait can be pretrained for."""

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
    """Raises ValueError for a name that is no objective, with the nearest."""
    for name in names:
        if name not in OBJECTIVES:
            raise ValueError(f"there is no objective {name!r}{suggest(name, OBJECTIVES)}")


def check_objective_weights(weights: Mapping[str, float]) -> None:
    """Raises ValueError for an unknown objective, or a weight that is negative or not finite."""
    check_objectives(weights)
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"the weight of the objective {name!r} is {weight}: expected a finite number from 0 on")
