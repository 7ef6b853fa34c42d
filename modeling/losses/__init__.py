"""Losses: cross-entropy over large vocabularies, contrastive losses.

May import: modeling/core and modeling/kernels.
"""
