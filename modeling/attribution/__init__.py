"""Attribution: which inputs, and which modalities, an output of a model is owed to.

Tensors only: rows, processors and results are the concern of `plait.training.explanations`.
"""
