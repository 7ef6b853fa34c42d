"""The backbone: the base class of all models, and the model without a head.

May import: modeling/composition and below.
"""
