"""Reads what a folder or Hub repository holds other than weights: its config and generation config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ...configuration import SPECIAL_TOKENS, PlaitConfig
from ...configuration.hub import HUB_OPTIONS
from ...configuration.json_files import read_json_mapping
from ..checkpoints.families.registry import FAMILIES
from ..checkpoints.sentence_modules import describe_sentence_modules
from ..checkpoints.source import OpenedCheckpoint

CHECKPOINT_OPTIONS = (*HUB_OPTIONS, "variant", "use_safetensors")


def pop_checkpoint_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Removes from the arguments those that say where a checkpoint is and which of its files to read; returns them."""
    return {name: arguments.pop(name) for name in CHECKPOINT_OPTIONS if name in arguments}


def read_config_dict(name: Any, hub: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the config.json of a folder or repository.

    Raises OSError, which names the folder or repository, if there is none to read.
    """
    file = Path(str(name), hub.get("subfolder") or "", CONFIG_NAME)
    try:
        if file.is_file():
            read_json_mapping(file)
        found = PreTrainedConfig.get_config_dict(name, **hub)[0]
    except (OSError, ValueError) as error:
        raise OSError(f"cannot read the config.json of {str(name)!r}: {error}") from error
    if not found:  # transformers returns nothing for some folders without the file
        modules = describe_sentence_modules(str(name), hub)
        raise OSError(
            f"there is no config.json in {str(name)!r}{modules}: pass the folder of a transformers checkpoint"
        )
    return found


def read_model_type(name: Any, hub: Mapping[str, Any]) -> str | None:
    """Reads the model type in the config.json of a folder or repository; None if it names none."""
    return read_config_dict(name, hub).get("model_type")


def read_config_without_decoder(name: Any, hub: Mapping[str, Any], kwargs: dict[str, Any]) -> PlaitConfig:
    """Reads the config of a saved plait model without its decoder; moves fields of the config from `kwargs` into it."""
    fields = (*PlaitConfig.__dataclass_fields__, "num_labels")
    given = {key: kwargs.pop(key) for key in fields if key in kwargs and key != "dtype"}
    config = PlaitConfig.from_pretrained(name, **hub, **given)
    config.decoder_config, config.is_encoder_decoder, config.tie_encoder_embeddings = None, False, False
    return config


def complete_generation_config(generation: GenerationConfig, config: PlaitConfig) -> GenerationConfig:
    """Fills in special tokens that only the model's config names; returns the same generation config."""
    generation._from_model_config = None  # else transformers builds it again from a config that holds less
    for name in (*SPECIAL_TOKENS, "decoder_start_token_id"):
        if getattr(generation, name) is None:
            setattr(generation, name, getattr(config, name))
    return generation


def find_start_token(*configs: PreTrainedConfig | GenerationConfig | None) -> int | None:
    """Returns the decoder's start token of the first config that names one, None if none does."""
    named = (getattr(config, "decoder_start_token_id", None) for config in configs)
    return next((token for token in named if token is not None), None)


def read_generation_config(source: OpenedCheckpoint, hub: Mapping[str, Any]) -> GenerationConfig | None:
    """Reads a checkpoint's generation_config.json and adds its family's defaults; None if it has no such file."""
    try:
        generation = GenerationConfig.from_pretrained(source.path, **hub)
    except OSError:
        return None
    return with_family_defaults(generation, source.config)


def with_family_defaults(generation: GenerationConfig, config: PreTrainedConfig) -> GenerationConfig:
    """Adds what the family's class in transformers changes when it generates; returns the same generation config."""
    family = FAMILIES.get(config.model_type)
    if family is not None and family.generation is not None:
        for name, value in family.generation(generation).items():
            setattr(generation, name, value)
    return generation
