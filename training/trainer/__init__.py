"""PlaitTrainer: what it adds to the Trainer of transformers.

May import: training/tasks and below.
"""
