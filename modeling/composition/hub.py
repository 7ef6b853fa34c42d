"""What a folder or a Hub repository says besides its weights: where it is, configs and generation defaults."""

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from ...configuration import SPECIAL_TOKENS, PlaitConfig
from ...configuration.hub import HUB_OPTIONS
from ..checkpoints.families.registry import FAMILIES
from ..checkpoints.source import OpenedCheckpoint

CHECKPOINT_OPTIONS = (*HUB_OPTIONS, "variant", "use_safetensors")


def pop_checkpoint_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Takes out of the arguments those that say where a checkpoint is and which of its files to read."""
    return {name: arguments.pop(name) for name in CHECKPOINT_OPTIONS if name in arguments}


def read_config_dict(name: Any, hub: Mapping[str, Any]) -> dict[str, Any]:
    """What the config.json of a folder or repository states.

    Raises OSError, naming it, where there is none to read.
    """
    try:
        return PreTrainedConfig.get_config_dict(name, **hub)[0]
    except OSError as error:
        raise OSError(f"cannot read the config.json of {str(name)!r}: {error}") from error


def read_model_type(name: Any, hub: Mapping[str, Any]) -> str | None:
    """The model type that the config.json of a folder or repository states."""
    return read_config_dict(name, hub).get("model_type")


def read_config_without_decoder(name: Any, hub: Mapping[str, Any], kwargs: dict[str, Any]) -> PlaitConfig:
    """The config of a plait folder, its decoder left out; fields that are given are taken out of `kwargs`."""
    fields = (*PlaitConfig.__dataclass_fields__, "num_labels")
    given = {key: kwargs.pop(key) for key in fields if key in kwargs and key != "dtype"}
    config = PlaitConfig.from_pretrained(name, **hub, **given)
    config.decoder_config, config.is_encoder_decoder, config.tie_encoder_embeddings = None, False, False
    return config


def complete_generation_config(generation: GenerationConfig, config: PlaitConfig) -> GenerationConfig:
    """A checkpoint's generation config, with the special tokens that its config alone names."""
    generation._from_model_config = None  # or transformers makes it anew from a config that knows less
    for name in (*SPECIAL_TOKENS, "decoder_start_token_id"):
        if getattr(generation, name) is None:
            setattr(generation, name, getattr(config, name))
    return generation


def find_start_token(*configs: PreTrainedConfig | GenerationConfig | None) -> int | None:
    """The token with which a checkpoint's decoder begins, as the first of its configs names it that does."""
    named = (getattr(config, "decoder_start_token_id", None) for config in configs)
    return next((token for token in named if token is not None), None)


def read_generation_config(source: OpenedCheckpoint, hub: Mapping[str, Any]) -> GenerationConfig | None:
    """A checkpoint's generation_config.json with what its own class adds to it; None where there is none."""
    try:
        generation = GenerationConfig.from_pretrained(source.path, **hub)
    except OSError:
        return None
    return with_family_defaults(generation, source.config)


def with_family_defaults(generation: GenerationConfig, config: PreTrainedConfig) -> GenerationConfig:
    """The generation config with what a family's own class adds to it when it generates."""
    family = FAMILIES.get(config.model_type)
    if family is not None and family.generation is not None:
        for name, value in family.generation(generation).items():
            setattr(generation, name, value)
    return generation
