"""The names of parameters, and the part of the model that each belongs to."""

import re

from transformers import PreTrainedModel

# prefixes and path segments that DistributedDataParallel, PEFT, FSDP and torch.compile add to names
WRAPPER_PREFIX = re.compile(r"^(?:module\.|base_model\.model\.|_orig_mod\.)+")
WRAPPER_SEGMENT = re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
# what the names of peft's own modules and parameters begin with: LoRA and DoRA, IA3, LoHa and LoKr, OFT, BOFT, VeRA
ADAPTER_SEGMENTS = ("lora_", "ia3_", "hada_", "lokr_", "oft_", "boft_", "vera_")
OWN_PARTS = ("fusion", "decoder", "denoiser", "autoencoder")


def part_of(name: str) -> str:
    """Returns the part that the parameter of this name belongs to: a modality, "decoder", "fusion", "denoiser",
    "autoencoder" or "head" (also inside DDP, FSDP or PEFT)."""
    path = WRAPPER_PREFIX.sub("", WRAPPER_SEGMENT.sub("", name)).removeprefix("model.").split(".")
    if path[0] == "towers":
        return path[1]
    return {"connectors": "fusion"}.get(path[0], path[0] if path[0] in OWN_PARTS else "head")


def find_base_prefix(model_class: type[PreTrainedModel]) -> str:
    """Returns the prefix of the base model's parameter names in this class."""
    return "" if model_class.__name__ == "PlaitModel" else "model."


def is_adapter_weight(name: str) -> bool:
    """Returns whether the parameter of this name belongs to an adapter that peft put beside a weight."""
    return any(segment.startswith(ADAPTER_SEGMENTS) for segment in name.split("."))
