"""Checks of explanations: which of them can be believed."""
