"""Recipes: the yaml files that come with plait, the keys of a recipe, and functions to read and check one.

May import: training/storage.
"""
