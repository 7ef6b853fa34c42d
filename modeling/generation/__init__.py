"""Generation: overrides of transformers' `generate`, the KV cache, and the decode step of one new token.

May import: the core, the towers, the fusions and below.
"""
