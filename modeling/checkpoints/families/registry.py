"""The families that the core knows, by transformers' model type. A new one is one more row of `MODULES`."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from ..conversion.family import Family

# the file of each model type
MODULES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
    "electra": "electra",
    "gpt2": "gpt2",
    "gpt_neo": "gpt_neo",
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "bart": "bart",
    "vit": "vit",
    "deit": "deit",
    "dinov2": "dinov2",
    "clip_text_model": "clip",
    "clip_vision_model": "clip",
    "siglip_text_model": "siglip",
    "siglip_vision_model": "siglip",
    "resnet": "resnet",
    "efficientnet_lite": "efficientnet_lite",
    "whisper": "whisper",
    "audio-spectrogram-transformer": "spectrogram",
    "wav2vec2": "wav2vec2",
    "hubert": "wav2vec2",
    "videomae": "video",
    "vivit": "video",
    "voice_encoder": "voice_encoder",
}


class FamilyRegistry(Mapping[str, Family]):
    """The families by model type; the file of a family is imported when the family is first looked up."""

    def __getitem__(self, model_type: str) -> Family:
        families = import_module(f".{MODULES[model_type]}", __package__).FAMILIES
        return next(family for family in families if model_type in family.model_types)

    def __contains__(self, model_type: object) -> bool:
        return model_type in MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


FAMILIES = FamilyRegistry()
