"""The model classes: one file for each class, and helper files that start with the name of the class's file.

May import: modeling/backbone and below.
"""
