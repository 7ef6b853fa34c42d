"""Which family a checkpoint is of, and our config for it."""

from typing import Any

from transformers import PreTrainedConfig

from ...configuration import CONFIG_FIELDS, PlaitDecoderConfig
from .conversion.family import Family, TensorNames
from .families.registry import FAMILIES

# checkpoints of two towers, and where in them a modality's tower stands: its config and the prefix of its names
DUAL_ENCODERS = ("clip", "siglip", "vision-text-dual-encoder")
DUAL_ENCODER_TOWERS = {"text": ("text_config", "text_model."), "image": ("vision_config", "vision_model.")}
FIELD_MODALITIES = {field: modality for modality, field in CONFIG_FIELDS.items()}


def find_tower_config(config: PreTrainedConfig, modality: str | None = None) -> PreTrainedConfig:
    """The config of one tower of a checkpoint: itself, but for one of two towers.

    Raises ValueError where there are two towers and none of them is named.
    """
    if config.model_type not in DUAL_ENCODERS:
        return config
    modality = "text" if modality == "decoder" else modality
    if modality not in DUAL_ENCODER_TOWERS:
        raise ValueError(
            f"a {config.model_type} checkpoint has the towers {', '.join(DUAL_ENCODER_TOWERS)}: name one of them"
        )
    return getattr(config, DUAL_ENCODER_TOWERS[modality][0])


def find_family(config: PreTrainedConfig, modality: str | None = None) -> Family | None:
    """The family of a checkpoint (of its tower of that modality); None where the core does not know it.

    Raises ValueError where the checkpoint has no tower of that modality, or two and none is named.
    """
    config = find_tower_config(config, modality)
    family = FAMILIES.get(config.model_type)
    if family is not None and modality is not None and not has_tower(family, modality):
        raise ValueError(f"a {config.model_type} checkpoint has no tower for the modality {modality!r}")
    return family


def has_tower(family: Family, modality: str) -> bool:
    """Whether a checkpoint of the family has a tower of that modality, or what can be made the "decoder"."""
    own = FIELD_MODALITIES[family.config_class.base_config_key]
    return own == modality or (modality == "decoder" and (own == "text" or family.decoder is not None))


def find_known_family(config: PreTrainedConfig, modality: str | None = None) -> Family:
    """The same, but a ValueError where the core does not know the family."""
    family = find_family(config, modality)
    if family is None:
        model_type = find_tower_config(config, modality).model_type
        raise ValueError(f"{model_type!r} is none of the families {', '.join(sorted(FAMILIES))}")
    return family


def build_component_configs(
    config: PreTrainedConfig, modality: str | None = None, names: TensorNames | None = None
) -> dict[str, Any]:
    """Our configs of a checkpoint by component: a modality, or "decoder". `names` are those on disk, without task
    prefix, where there is a file.

    A causal language model read alone (no modality) is a decoder.

    Raises:
        ValueError: an unknown family, or a setting that the core does not have (with its key and value).
    """
    family, config, names = (
        find_known_family(config, modality),
        find_tower_config(config, modality),
        names or TensorNames({}),
    )
    fields = family.config(config, names)
    said = {"family": config.model_type, "source_config": config.to_diff_dict()}
    if modality is None and family.generates and fields.get("is_causal"):
        return {"decoder": PlaitDecoderConfig(**fields, **said)}
    configs: dict[str, Any] = {
        FIELD_MODALITIES[family.config_class.base_config_key]: family.config_class(**fields, **said)
    }
    if family.decoder is not None and (not names or any(name.startswith("decoder.") for name in names)):
        configs["decoder"] = PlaitDecoderConfig(**family.decoder(config, names), **said)
    return configs


def build_component_config(
    config: PreTrainedConfig, modality: str | None = None, names: TensorNames | None = None
) -> Any:
    """Our config of one component of a checkpoint: see `build_component_configs`."""
    configs = build_component_configs(config, modality, names)
    return configs.get(modality or "", next(iter(configs.values())))
