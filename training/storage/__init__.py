"""How files and folders are kept: written whole or not at all, locked by one process, checked, and free of secrets.

May import: nothing of training.
"""
