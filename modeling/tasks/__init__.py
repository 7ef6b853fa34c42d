"""The model classes: one file a class, and what a class is too long for beside it.

May import: modeling/backbone and below.
"""
