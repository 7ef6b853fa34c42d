"""Which family a checkpoint is of, and our config for it."""

from typing import Any

from transformers import PreTrainedConfig

from ...configuration import CONFIG_FIELDS, PlaitDecoderConfig
from .conversion.family import Family, Names
from .families.registry import FAMILIES

# checkpoints of two towers, and where in them a modality's tower stands: its config and the prefix of its names
TWO_TOWERS = ("clip", "siglip", "vision-text-dual-encoder")
PLACES = {"text": ("text_config", "text_model."), "image": ("vision_config", "vision_model.")}
MODALITIES = {field: modality for modality, field in CONFIG_FIELDS.items()}


def tower_config_of(config: PreTrainedConfig, modality: str | None = None) -> PreTrainedConfig:
    """The config of one tower of a checkpoint: itself, but for one of two towers.

    Raises ValueError where there are two towers and none of them is named.
    """
    if config.model_type not in TWO_TOWERS:
        return config
    modality = "text" if modality == "decoder" else modality
    if modality not in PLACES:
        raise ValueError(f"a {config.model_type} checkpoint has the towers {', '.join(PLACES)}: name one of them")
    return getattr(config, PLACES[modality][0])


def family_of(config: PreTrainedConfig, modality: str | None = None) -> Family | None:
    """The family of a checkpoint (of its tower of that modality); None where the core does not know it.

    Raises ValueError where the checkpoint has no tower of that modality, or two and none is named.
    """
    config = tower_config_of(config, modality)
    family = FAMILIES.get(config.model_type)
    if family is not None and modality is not None and not holds(family, modality):
        raise ValueError(f"a {config.model_type} checkpoint has no tower for the modality {modality!r}")
    return family


def holds(family: Family, modality: str) -> bool:
    """Whether a checkpoint of the family has a tower of that modality, or what can be made the "decoder"."""
    own = MODALITIES[family.config_class.base_config_key]
    return own == modality or (modality == "decoder" and (own == "text" or family.decoder is not None))


def known_family_of(config: PreTrainedConfig, modality: str | None = None) -> Family:
    """The same, but a ValueError where the core does not know the family."""
    family = family_of(config, modality)
    if family is None:
        model_type = tower_config_of(config, modality).model_type
        raise ValueError(f"{model_type!r} is none of the families {', '.join(sorted(FAMILIES))}")
    return family


def configs_of(config: PreTrainedConfig, modality: str | None = None, names: Names | None = None) -> dict[str, Any]:
    """Our configs of a checkpoint by strand: a modality, or "decoder". `names` are those on disk, without task prefix,
    where there is a file.

    A causal language model read alone (no modality) is a decoder.

    Raises:
        ValueError: an unknown family, or a setting that the core does not have (with its key and value).
    """
    family, config, names = known_family_of(config, modality), tower_config_of(config, modality), names or Names({})
    fields = family.config(config, names)
    said = {"family": config.model_type, "source_config": config.to_diff_dict()}
    if modality is None and family.generates and fields.get("is_causal"):
        return {"decoder": PlaitDecoderConfig(**fields, **said)}
    configs: dict[str, Any] = {MODALITIES[family.config_class.base_config_key]: family.config_class(**fields, **said)}
    if family.decoder is not None and (not names or any(name.startswith("decoder.") for name in names)):
        configs["decoder"] = PlaitDecoderConfig(**family.decoder(config, names), **said)
    return configs


def config_of(config: PreTrainedConfig, modality: str | None = None, names: Names | None = None) -> Any:
    """Our config of one strand of a checkpoint: see `configs_of`."""
    configs = configs_of(config, modality, names)
    return configs.get(modality or "", next(iter(configs.values())))
