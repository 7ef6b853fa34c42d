"""The backbone: the base class of every model, and the model without a head.

May import: modeling/composition and below.
"""
