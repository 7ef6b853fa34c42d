"""Loads what is to be exported: a model of the class that its folder names, with its processor."""

from typing import Any

from transformers import PreTrainedConfig

from ... import modeling
from ...configuration.messages import to_one_line
from ...processing import PlaitProcessor
from ..recipes.errors import RecipeError
from ..runs.adapters import is_adapter_folder, load_weights
from ..runs.building import resolve_reference
from ..runs.loading import check_run_model, load_model_recipe
from ..tasks.registry import find_task

# the ends of the class names of transformers, and the class of plait for their checkpoints
CHECKPOINT_CLASSES = {
    "ForMaskedLM": "PlaitForMaskedLM",
    "ForQuestionAnswering": "PlaitForQuestionAnswering",
    "ForSequenceClassification": "PlaitForClassification",
    "ForImageClassification": "PlaitForClassification",
    "ForAudioClassification": "PlaitForClassification",
    "ForVideoClassification": "PlaitForClassification",
    "ForConditionalGeneration": "PlaitForConditionalGeneration",
    "ForCausalLM": "PlaitForCausalLM",
    "LMHeadModel": "PlaitForCausalLM",
    "CLIPModel": "PlaitForRetrieval",
    "SiglipModel": "PlaitForRetrieval",
}


def load_exportable(reference: str, task: str | None = None) -> tuple[Any, PlaitProcessor | None]:
    """Loads a model in evaluation mode and single precision, adapters added to the weights, and its processor; None if
    the folder has none.

    Raises RecipeError for a reference that cannot be loaded.
    """
    check_run_model(reference)
    try:
        if task is not None or is_adapter_folder(reference):
            recipe = load_model_recipe(reference, {} if task is None else {"task": task})
            model: Any = load_weights(reference, find_task(recipe.task))
        else:
            model = find_class(reference).from_pretrained(resolve_reference(reference))
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"{reference}: {to_one_line(error)}") from error
    return model.eval().float(), load_processor(reference)


def load_processor(reference: str) -> PlaitProcessor | None:
    """Loads the processor of a folder; None if it has no part of one."""
    try:
        return PlaitProcessor.from_pretrained(resolve_reference(reference))
    except OSError:
        return None


def find_class(reference: str) -> Any:
    """Returns the class of plait by which a folder is loaded: the one that its config names, or the one for its
    checkpoints; PlaitModel for any other."""
    config, _ = PreTrainedConfig.get_config_dict(resolve_reference(reference))
    named = next(iter(config.get("architectures") or []), "PlaitModel")
    if named.startswith("Plait"):
        return getattr(modeling, named)
    return getattr(
        modeling, next((ours for end, ours in CHECKPOINT_CLASSES.items() if named.endswith(end)), "PlaitModel")
    )
