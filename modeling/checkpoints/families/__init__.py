"""One file of data a family: its config and its table of names.

May import: modeling/checkpoints/conversion and below.
"""
