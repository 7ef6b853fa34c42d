"""Faster kernels for linear layers, put in place of the plain ones where they compute the same.

May import: modeling/core.
"""
