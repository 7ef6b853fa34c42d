"""Which of transformers' Auto classes load plait's models: every one is ours, or says why not."""

import inspect

import pytest
import transformers
from transformers.models.auto import modeling_auto

import plait
from plait.configuration.remote_code.auto_classes import AUTO_CLASSES, list_auto_classes

# a text-to-anything, pixel, box or span task that no class of plait has a head for
NOT_OURS = {
    "AutoBackbone": "feature maps of several stages for detection",
    "AutoModelForAudioFrameClassification": "a class for each frame",
    "AutoModelForAudioTokenization": "discrete audio tokens",
    "AutoModelForAudioXVector": "speaker vectors with a class for each speaker",
    "AutoModelForCTC": "connectionist temporal classification",
    "AutoModelForDecision": "a decision head",
    "AutoModelForDepthEstimation": "a number for each pixel",
    "AutoModelForDocumentQuestionAnswering": "boxes of words are inputs",
    "AutoModelForImageMatting": "a number for each pixel",
    "AutoModelForImageSegmentation": "a class for each pixel",
    "AutoModelForImageToImage": "pixel_values in: plait's autoencoder takes target images",
    "AutoModelForInstanceSegmentation": "masks of objects",
    "AutoModelForKeypointDetection": "points",
    "AutoModelForKeypointMatching": "points",
    "AutoModelForMaskGeneration": "masks",
    "AutoModelForMultipleChoice": "a score for each choice",
    "AutoModelForNextSentencePrediction": "two sentences in order or not",
    "AutoModelForNormalEstimation": "a vector for each pixel",
    "AutoModelForObjectDetection": "boxes",
    "AutoModelForPointmapEstimation": "a point for each pixel",
    "AutoModelForPoseEstimation": "points",
    "AutoModelForRNNT": "a transducer",
    "AutoModelForSemanticSegmentation": "a class for each pixel",
    "AutoModelForTDT": "a transducer",
    "AutoModelForTableQuestionAnswering": "cells of tables",
    "AutoModelForTableRecognition": "cells of tables",
    "AutoModelForTextRecognition": "characters in images",
    "AutoModelForTextToSpectrogram": "audio out",
    "AutoModelForTextToWaveform": "audio out",
    "AutoModelForTimeSeriesPrediction": "numbers over time",
    "AutoModelForTokenClassification": "a class for each token",
    "AutoModelForUniversalSegmentation": "masks",
    "AutoModelForZeroShotObjectDetection": "boxes",
}
WITHOUT_AUTO_CLASS = {"PlaitForImageGeneration", "PlaitForImageAutoencoding"}


def list_auto_model_classes() -> set[str]:
    return {
        name
        for name, value in vars(modeling_auto).items()
        if inspect.isclass(value) and name.startswith("Auto") and hasattr(value, "_model_mapping")
    }


def test_every_auto_class_is_ours_or_says_why_not() -> None:
    found = list_auto_model_classes()
    assert found >= {"AutoModel", "AutoModelForCausalLM"} and set(AUTO_CLASSES) <= found
    assert found - set(AUTO_CLASSES) - set(NOT_OURS) == set()
    assert not set(AUTO_CLASSES) & set(NOT_OURS)


def test_every_class_of_plait_has_an_auto_class_or_is_named_without() -> None:
    classes = {name for name in plait.__all__ if name.startswith("PlaitFor") or name == "PlaitModel"}
    assert {name for name in classes if not list_auto_classes(name)} == WITHOUT_AUTO_CLASS
    assert {name for names in AUTO_CLASSES.values() for name in names} == classes - WITHOUT_AUTO_CLASS


@pytest.mark.parametrize("auto", AUTO_CLASSES)
def test_an_auto_class_knows_plaits_classes(auto: str) -> None:
    registered = getattr(transformers, auto)._model_mapping[plait.PlaitConfig]
    classes = registered if isinstance(registered, tuple) else (registered,)
    assert [model_class.__name__ for model_class in classes] == [*AUTO_CLASSES[auto]]
