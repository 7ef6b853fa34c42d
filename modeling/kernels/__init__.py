"""Faster kernels for linear layers and MLPs, which replace a module's `forward` and compute the same.

May import: modeling/core.
"""
