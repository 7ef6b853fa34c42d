"""The known families, by transformers' model type. To add a family, add its file and a row in `MODULES`."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from ..conversion.family import Family

# the file that describes each model type
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
    """The families by model type; a family's file is imported when it is first looked up."""

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
