"""One run from its recipe to its folder: building, training, evaluating, predicting.

May import: training/trainer and below.
"""
