"""Reinforcement learning of models that generate, on the rewards of their own texts; preferences and groups of replies,
by the library TRL."""

from .trainer import PlaitRewardTrainer

__all__ = ["PlaitRewardTrainer"]
