"""`plait compare`: does a modality help? Models of one data set compared over folds, with paired intervals.

May import: training/runs and below.
"""
