"""Data: reads rows from files and the Hub, and turns them into the inputs of a model.

May import: training/recipes and training/parameters.
"""
