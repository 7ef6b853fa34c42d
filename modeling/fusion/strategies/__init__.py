"""The fusion strategies, one file each; `modeling/fusion/registry.py` lists them.

May import: the files of modeling/fusion except the registry, and below.
"""
