"""Composition: towers from any source become one model. It reads configs and tensors and imports no model class.

May import: modeling/checkpoints and below.
"""
