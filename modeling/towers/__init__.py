"""Towers: each turns one modality into a stream of tokens.

May import: modeling/core, modeling/kernels and modeling/losses, never modeling/fusion.
"""
