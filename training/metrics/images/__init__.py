"""Measures of generated images, with intervals: distribution, agreement with the condition, components, near copies.

May import: training/metrics, training/data and below.
"""
