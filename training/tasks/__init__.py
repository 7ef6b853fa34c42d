"""Tasks: what each reads, how its batches are made and measured, and what it answers. One row and one file each.

May import: training/optimization and below.
"""
