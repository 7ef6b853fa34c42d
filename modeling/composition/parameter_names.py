"""Names of parameters, and the part of the model that each belongs to."""

from transformers import PreTrainedModel


def part_of(parameter_name: str) -> str:
    """The part a parameter belongs to: a modality, "decoder", "fusion" or "head"."""
    path = parameter_name.removeprefix("model.").split(".")
    if path[0] == "towers":
        return path[1]
    return {"connectors": "fusion", "fusion": "fusion", "decoder": "decoder"}.get(path[0], "head")


def base_prefix(model_class: type[PreTrainedModel]) -> str:
    """What the names of the base model's parameters begin with in this class."""
    return "" if model_class.__name__ == "PlaitModel" else "model."
