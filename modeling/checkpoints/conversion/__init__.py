"""The conversion of checkpoints: tables of names, rules and their inverses.

May import: modeling/heads and below.
"""
