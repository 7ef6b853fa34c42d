"""Predictions for the rows of files: read and written part by part, by one process or several."""
