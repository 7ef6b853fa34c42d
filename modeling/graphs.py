"""Whether a call is recorded as a graph, which cannot depend on the values of tensors."""

import torch
from transformers.utils.import_utils import is_torchdynamo_compiling


def is_recording_graph() -> bool:
    """Returns whether the call is compiled, exported, traced or captured in a CUDA graph. The graph serves other inputs
    too: checks of values are left out (they would end a capture), no branch depends on values, and a batch is
    `x.shape[0]`, for `len(x)` would be a constant."""
    traced = is_torchdynamo_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return traced or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
