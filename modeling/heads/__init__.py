"""Heads: modules that compute a task's answer from the output of a tower, a fusion or a decoder.

May import: modeling/generation and below.
"""
