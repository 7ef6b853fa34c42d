"""The tasks, one file each: the columns of a task, how it builds and measures batches, and how it predicts.

May import: training/optimization and below.
"""
