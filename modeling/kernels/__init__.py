"""Faster kernels for linear layers and activations, which compute what the modules compute.

May import: nothing of modeling but its outputs, inputs and graphs.
"""
