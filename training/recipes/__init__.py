"""Recipes: the yaml files that come with plait, how one is read, and what its keys are.

May import: nothing of training.
"""
