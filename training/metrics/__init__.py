"""Metrics, baselines and intervals.

May import: training/data and below.
"""
