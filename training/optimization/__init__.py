"""Training arguments, losses, gradients, loss-weight schedules and the moving average of weights.

May import: training/metrics and below.
"""
