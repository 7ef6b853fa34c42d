"""The transformer core: attention, layers, masks, positions, packing and pooling.

May import: the configuration and modeling/kernels.
"""
