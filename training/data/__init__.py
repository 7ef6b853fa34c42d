"""Data: rows from files and the Hub, and the inputs of a model made from them.

May import: training/recipes and training/parameters.
"""
