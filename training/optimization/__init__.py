"""What the optimizer sees: training arguments, losses, gradients, schedules and averages of weights.

May import: training/metrics and below.
"""
