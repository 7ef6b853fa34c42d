"""The fusion strategies, one file each; `registry.py` above lists them.

May import: the files of modeling/fusion beside this folder, and below; never the registry.
"""
