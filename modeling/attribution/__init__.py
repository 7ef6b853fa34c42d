"""Attribution: which inputs, and which modalities, an output of a model is owed to."""
