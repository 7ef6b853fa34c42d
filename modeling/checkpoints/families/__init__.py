"""The families of checkpoints, one file each: the config and the table of names.

May import: modeling/checkpoints/conversion and below.
"""
