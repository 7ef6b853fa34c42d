"""Reports: what a model answered for each row, figures of it, and pages to look at that load nothing else.

May import: training/explanations and what is below it.
"""
