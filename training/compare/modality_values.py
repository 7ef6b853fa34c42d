"""What each modality adds to the metric of a fusion, from the predictions on shuffled inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...modeling.attribution.shapley import compute_interactions, compute_main_effects, compute_shapley_values
from ..metrics.bootstrap import BootstrapValues

TOGETHER = "together"


def shuffle_answers(answers: Sequence[np.ndarray], groups: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Returns each row's answer to another row of its group (the test rows of a fold): what the model says without
    any of the row's own inputs."""
    moved = [answer.copy() for answer in answers]
    for rows in groups:
        order = np.random.default_rng(seed).permutation(rows)
        for answer, own in zip(moved, answers, strict=True):
            answer[order] = own[np.roll(order, 1)]
    return moved


def compute_added(
    modalities: Sequence[str], values: Mapping[frozenset[str], BootstrapValues], sign: int
) -> dict[str, dict[str, Any]]:
    """Returns `{modality: {value, low, high}}`, Shapley values of the metric, which sum to the metric of the model
    minus that on shuffled inputs; and of two modalities what each adds `alone` and both `together`.

    values: the metric by the modalities that are not shuffled, of every subset; sign: -1 for an error, 1 otherwise.
    """
    coalitions = [
        frozenset(name for bit, name in enumerate(modalities) if number >> bit & 1)
        for number in range(2 ** len(modalities))
    ]
    game = torch.tensor(
        np.stack([np.append(values[kept].estimate, values[kept].resampled) for kept in coalitions]) * sign
    )
    shapley, pairs = compute_shapley_values(game), compute_interactions(game)
    added = {name: build_interval(own) for name, own in zip(modalities, shapley, strict=True)}
    if len(modalities) == 2:
        main = compute_main_effects(shapley, pairs)
        added |= {f"{name} alone": build_interval(own) for name, own in zip(modalities, main, strict=True)}
        added[TOGETHER] = build_interval(pairs[0, 1])
    return added


def build_interval(values: torch.Tensor) -> dict[str, float]:
    """Returns the interval of an estimate, the first value, and its resamples."""
    return BootstrapValues(float(values[0]), values[1:].numpy()).interval.as_dict()
