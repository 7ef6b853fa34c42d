"""Generation: what `generate` needs besides the model, and the decode step of one new token.

May import: the core, the towers, the fusions and below.
"""
