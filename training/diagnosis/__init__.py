"""`plait doctor`: examines a recipe before any training: its data, its model, its memory and its settings.

May import: all of training but the rooms beside and above it (search, serving, commands, cli).
"""
