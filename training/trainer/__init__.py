"""PlaitTrainer, the Trainer of transformers for plait models, and its callbacks, checks and evaluation loops.

May import: training/tasks and below.
"""
