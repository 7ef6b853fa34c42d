"""Finds the family of a checkpoint, and builds our config for it."""

from typing import Any

from transformers import PreTrainedConfig

from ...configuration import CONFIG_FIELDS, PlaitDecoderConfig
from .conversion.family import Family, TensorNames
from .families.registry import FAMILIES

# model types of two towers; for each modality the field of its tower's config and the prefix of its parameters
DUAL_ENCODERS = ("clip", "siglip", "vision-text-dual-encoder")
DUAL_ENCODER_TOWERS = {"text": ("text_config", "text_model."), "image": ("vision_config", "vision_model.")}
FIELD_MODALITIES = {field: modality for modality, field in CONFIG_FIELDS.items()}


def find_tower_config(config: PreTrainedConfig, modality: str | None = None) -> PreTrainedConfig:
    """Returns the config of one tower: of a two-tower checkpoint that of `modality`, else `config` itself.

    Raises ValueError if there are two towers and `modality` names neither.
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
    """Returns the family of a checkpoint, or of its tower of that modality; None if plait does not know it.

    Raises ValueError if the checkpoint has no tower of that modality, or two towers and none is named.
    """
    config = find_tower_config(config, modality)
    family = FAMILIES.get(config.model_type)
    if family is not None and modality is not None and not has_tower(family, modality):
        raise ValueError(
            f"a {config.model_type} checkpoint has no tower for the modality {modality!r}: pass another checkpoint"
        )
    return family


def has_tower(family: Family, modality: str) -> bool:
    """Returns whether checkpoints of the family have a tower of that modality or, for "decoder", a text model."""
    own = FIELD_MODALITIES[family.config_class.base_config_key]
    return own == modality or (modality == "decoder" and (own == "text" or family.decoder is not None))


def find_known_family(config: PreTrainedConfig, modality: str | None = None) -> Family:
    """Returns the family as `find_family` does; raises ValueError if plait does not know it."""
    family = find_family(config, modality)
    if family is None:
        model_type = find_tower_config(config, modality).model_type
        raise ValueError(f"{model_type!r} is none of the families {', '.join(sorted(FAMILIES))}")
    return family


def holds_decoder_alone(config: PreTrainedConfig, names: TensorNames) -> bool:
    """Returns whether a checkpoint of an encoder-decoder family has no encoder (BartForCausalLM), by its names on disk
    or, without a file, by its config."""
    if not names:
        return getattr(config, "is_decoder", False) and not config.is_encoder_decoder
    return not any(name.startswith(("encoder.", "shared.")) for name in names)


def build_component_configs(
    config: PreTrainedConfig, modality: str | None = None, names: TensorNames | None = None
) -> dict[str, Any]:
    """Builds our configs of a checkpoint's components, by modality or as "decoder".

    names: the names on disk without the task prefix, None without a file. A causal language model becomes a decoder
    if `modality` is None.

    Raises:
        ValueError: an unknown family, or a setting that our transformer does not support (with its key and value).
    """
    family, config, names = (
        find_known_family(config, modality),
        find_tower_config(config, modality),
        names or TensorNames({}),
    )
    origin = {"family": config.model_type, "source_config": config.to_diff_dict()}
    if family.decoder is not None and holds_decoder_alone(config, names):
        if modality not in (None, "decoder"):
            raise ValueError(
                f"a {config.model_type} checkpoint of a decoder alone has no {modality} tower: pass it as decoder=..."
            )
        return {"decoder": PlaitDecoderConfig(**family.decoder(config, names), **origin)}
    fields = family.config(config, names)
    if modality is None and family.generates and fields.get("is_causal"):
        return {"decoder": PlaitDecoderConfig(**fields, **origin)}
    configs: dict[str, Any] = {
        FIELD_MODALITIES[family.config_class.base_config_key]: family.config_class(**fields, **origin)
    }
    if family.decoder is not None and (not names or any(name.startswith("decoder.") for name in names)):
        configs["decoder"] = PlaitDecoderConfig(**family.decoder(config, names), **origin)
    return configs


def build_component_config(
    config: PreTrainedConfig, modality: str | None = None, names: TensorNames | None = None
) -> Any:
    """Builds our config of one component, of `modality` or else the first; see `build_component_configs`."""
    configs = build_component_configs(config, modality, names)
    return configs.get(modality or "", next(iter(configs.values())))
