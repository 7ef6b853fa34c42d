"""Adapters beside pretrained weights, and weights in fewer bits: which modules get them, and how they are put in."""
