"""Heads: what reads the result of a fusion or of a decoder.

May import: modeling/generation and below.
"""
