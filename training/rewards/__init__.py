"""Reinforcement learning of models that generate, on the rewards of their own texts."""

from .trainer import PlaitRewardTrainer

__all__ = ["PlaitRewardTrainer"]
