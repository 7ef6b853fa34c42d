"""The families that the core knows, by transformers' model type. A new one is one more name here."""

from importlib import import_module

from ..conversion.family import Family

MODULES = (
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "gpt2",
    "gpt_neo",
    "llama",
    "mistral",
    "qwen",
    "bart",
    "vit",
    "deit",
    "dinov2",
    "clip",
    "siglip",
    "resnet",
    "efficientnet_lite",
    "whisper",
    "spectrogram",
    "wav2vec2",
    "video",
    "voice_encoder",
)

FAMILIES: dict[str, Family] = {
    model_type: family
    for module in MODULES
    for family in import_module(f".{module}", __package__).FAMILIES
    for model_type in family.model_types
}
