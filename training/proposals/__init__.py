"""From a table to a model: a recipe proposed for a table by the content of its columns, and `plait.fit`."""
