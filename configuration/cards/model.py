"""What a card says of a model's class: the Hub's task, what it is for, and its limits."""

from collections.abc import Mapping

from ..plait import PlaitConfig
from .licences import PartOrigin, find_origin

SINGLE_TASKS = {
    "text": "text-classification",
    "image": "image-classification",
    "audio": "audio-classification",
    "video": "video-classification",
}
CLASS_TASKS = {
    "PlaitForCausalLM": "text-generation",
    "PlaitForMaskedLM": "fill-mask",
    "PlaitForQuestionAnswering": "question-answering",
    "PlaitForPreTraining": "feature-extraction",
    "PlaitModel": "feature-extraction",
    "PlaitForImageGeneration": "text-to-image",
    "PlaitForImageAutoencoding": "image-to-image",
}
CLASS_PURPOSES = {
    "PlaitModel": "computes vectors of its inputs, for a head or a comparison of your own",
    "PlaitForClassification": "chooses among its labels, or predicts a number",
    "PlaitForCausalLM": "continues a text",
    "PlaitForConditionalGeneration": "generates a text from its inputs",
    "PlaitForRetrieval": "brings its inputs into one space, in which near vectors mean alike",
    "PlaitForMaskedLM": "fills in masked words",
    "PlaitForQuestionAnswering": "finds the answer to a question in a text",
    "PlaitForPreTraining": "is a start for fine-tuning, not for use as it is",
    "PlaitForImageGeneration": "generates images",
    "PlaitForImageAutoencoding": "turns images into latents and back",
}
USE_LIMITS = (
    "It was not measured on other data than named here, and answers as confidently where they differ. What is unfair "
    "or wrong in its training data and in the checkpoints it is made of is in its answers too: check them on your own "
    "data before people depend on them. The licences of the parts hold for the whole."
)


def find_pipeline_tag(model_class: str, config: PlaitConfig) -> str | None:
    """Returns the Hub's name of what a model does; None if it has none for its class and modalities."""
    modalities = tuple(config.encoders)
    if model_class == "PlaitForClassification":
        one = SINGLE_TASKS.get(modalities[0]) if len(modalities) == 1 else None
        return one or ("image-text-to-text" if set(modalities) == {"text", "image"} else "any-to-any")
    if model_class == "PlaitForRetrieval":
        return "zero-shot-image-classification" if "image" in modalities else "sentence-similarity"
    if model_class in ("PlaitForConditionalGeneration", "PlaitForCausalLM") and "image" in modalities:
        return "image-text-to-text"
    if model_class == "PlaitForConditionalGeneration":
        return "automatic-speech-recognition" if modalities == ("audio",) else "text2text-generation"
    return CLASS_TASKS.get(model_class)


def describe_use(model_class: str, config: PlaitConfig) -> str:
    """Returns what a model is for, and its limits."""
    read = ", ".join(config.encoders) or ("text" if config.decoder_config is not None else "image")
    purpose = CLASS_PURPOSES.get(model_class, CLASS_PURPOSES["PlaitModel"])
    return f"The model {purpose}; it reads {read}, like that of its training data. {USE_LIMITS}"


def describe_parts(origins: Mapping[str, str]) -> list[PartOrigin]:
    """Returns where each part came from, with the licences that are known, from what the model notes of it."""
    return [find_origin(part, source) for part, source in origins.items()]
