"""Which Auto class of transformers loads which model class of plait."""

AUTO_CLASSES: dict[str, tuple[str, ...]] = {
    "AutoModel": ("PlaitModel",),
    "AutoModelForSequenceClassification": ("PlaitForClassification",),
    "AutoModelForImageClassification": ("PlaitForClassification",),
    "AutoModelForAudioClassification": ("PlaitForClassification",),
    "AutoModelForVideoClassification": ("PlaitForClassification",),
    "AutoModelForMaskedLM": ("PlaitForMaskedLM",),
    "AutoModelForPreTraining": ("PlaitForPreTraining",),
    "AutoModelForQuestionAnswering": ("PlaitForQuestionAnswering",),
    "AutoModelForZeroShotImageClassification": ("PlaitForRetrieval",),
    "AutoModelForCausalLM": ("PlaitForCausalLM",),
    "AutoModelForSeq2SeqLM": ("PlaitForConditionalGeneration",),
    "AutoModelForSpeechSeq2Seq": ("PlaitForConditionalGeneration",),
    "AutoModelForImageTextToText": ("PlaitForConditionalGeneration", "PlaitForCausalLM"),
    "AutoModelForMultimodalLM": ("PlaitForConditionalGeneration", "PlaitForCausalLM"),
    "AutoModelForVisualQuestionAnswering": ("PlaitForClassification", "PlaitForConditionalGeneration"),
    "AutoModelForMaskedImageModeling": ("PlaitForPreTraining",),
    "AutoModelForTextEncoding": ("PlaitModel",),
}
"""The model classes by the Auto class; of several, the class that saved a folder loads it."""


def list_auto_classes(model_class: str) -> list[str]:
    """Returns the Auto classes that load folders of a model class as this class."""
    return [auto for auto, classes in AUTO_CLASSES.items() if model_class in classes]
