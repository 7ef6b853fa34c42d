"""The reward of sampled texts: the weighted sum of several rewards, minus penalties; computed in other processes if
they are slow."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

from ..recipes.errors import RecipeError
from ..recipes.reward import RewardRecipe
from .functions import RetrievalReward, Reward, Rows, build_reward, check_scores, measure_repetition


class TextScores(NamedTuple):
    """total: (texts,), what is learned from; parts: each reward before its weight, (texts,)."""

    total: np.ndarray
    parts: dict[str, np.ndarray]


class RewardScorer:
    """Scores texts by the rewards of a recipe.

    references: returns those of the training rows; functions: further rewards by the names that the recipe uses.

    Raises RecipeError for an unknown reward, or a function that the recipe does not name.
    """

    def __init__(
        self,
        recipe: RewardRecipe,
        references: Callable[[], Sequence[Sequence[str]]],
        functions: Mapping[str, Reward] | None = None,
    ) -> None:
        self.recipe, own = recipe, functions or {}
        unnamed = [name for name in own if name not in recipe.metrics]
        if unnamed:
            raise RecipeError(
                f"functions: reward.metrics names {', '.join(recipe.metrics)}, and not {unnamed[0]!r}, so nothing "
                f"calls it: add {unnamed[0]!r} and its weight to reward.metrics, or leave the function out"
            )
        self.rewards: dict[str, Reward] = {
            name: own[name] if name in own else build_reward(name, references) for name in recipe.metrics
        }
        if recipe.workers and all(isinstance(reward, RetrievalReward) for reward in self.rewards.values()):
            raise RecipeError(
                f"reward.workers is {recipe.workers}, but retrieval models judge in the process that trains: leave "
                "workers out"
            )
        self.pool: ProcessPoolExecutor | None = None

    def score(self, texts: Sequence[str], lengths: Sequence[int], rows: Rows) -> TextScores:
        """Scores texts of these lengths in tokens, each with its row: the columns of the data, and `references`."""
        parts = {
            name: check_scores(name, self.run(name, reward, texts, rows), len(texts))
            for name, reward in self.rewards.items()
        }
        total = sum((self.recipe.metrics[name] * values for name, values in parts.items()), np.zeros(len(texts)))
        if self.recipe.length_penalty:
            total = total - self.recipe.length_penalty * np.asarray(lengths)
        if self.recipe.repetition_penalty:
            total = total - self.recipe.repetition_penalty * np.array([measure_repetition(text) for text in texts])
        return TextScores(total, parts)

    def run(self, name: str, reward: Reward, texts: Sequence[str], rows: Rows) -> Sequence[float]:
        """Computes one reward, in the worker processes if there are any; a model judges in this one."""
        if not self.recipe.workers or isinstance(reward, RetrievalReward):
            return reward(texts, rows)
        if self.pool is None:
            remote = {name: each for name, each in self.rewards.items() if not isinstance(each, RetrievalReward)}
            self.pool = ProcessPoolExecutor(self.recipe.workers, get_context("spawn"), set_rewards, (remote,))
        size = -(-len(texts) // self.recipe.workers)
        starts = range(0, len(texts), size)
        jobs = [self.pool.submit(run_reward, name, texts[at : at + size], rows[at : at + size]) for at in starts]
        return [score for job in jobs for score in job.result()]

    def close(self) -> None:
        """Ends the worker processes."""
        if self.pool is not None:
            self.pool.shutdown()
            self.pool = None


REWARDS_HERE: dict[str, Reward] = {}  # of a worker process


def set_rewards(rewards: Mapping[str, Reward]) -> None:
    """Keeps the rewards in a worker process, so that they are sent once."""
    REWARDS_HERE.update(rewards)


def run_reward(name: str, texts: Sequence[str], rows: Rows) -> list[float]:
    """Computes a reward in a worker process."""
    found: Any = REWARDS_HERE[name](texts, rows)
    return list(found)
