"""`plait compare`: single modalities and fusions of one data set, compared over folds with paired intervals.

May import: training/runs and below.
"""
