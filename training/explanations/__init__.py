"""Explanations of a model's answers for rows: of inputs and of modalities, their checks and their pages."""
