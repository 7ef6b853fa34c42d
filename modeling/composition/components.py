"""One tower before it is braided, and how a plait's own tower or decoder becomes one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

from ...configuration import PlaitConfig, PlaitDecoderConfig, PlaitTextConfig
from ..backbone.pretrained import PlaitPreTrainedModel


class Strand(NamedTuple):
    """One tower before it is braided: its config, its weights by name inside the tower (None: fresh ones), the heads
    that came with them, and where all of it came from."""

    config: PreTrainedConfig
    weights: Mapping[str, Tensor] | None
    heads: Mapping[str, Tensor]
    origin: str
    source_config: PreTrainedConfig | None = None
    generation: GenerationConfig | None = None


def reading_class(config: PlaitConfig, modality: str) -> type[PlaitPreTrainedModel]:
    """The class with which a plait's folder is read for this part: a decoder's with its head."""
    from ..backbone.model import PlaitModel
    from ..tasks.causal_lm import PlaitForCausalLM
    from ..tasks.conditional_generation import PlaitForConditionalGeneration

    if modality != "decoder" or config.decoder_config is None:
        return PlaitModel
    return PlaitForConditionalGeneration if config.is_encoder_decoder else PlaitForCausalLM


def strand_of_plait(modality: str, model: PlaitPreTrainedModel) -> Strand:
    """A plait's tower; of its decoder with the head, the special tokens and the generation config."""
    config = own_strand(modality, model.config)
    weights = next(part for part in model.parts.values() if part.config is config).state_dict()
    origin = model.name_or_path or "a ready model"
    if modality != "decoder":
        return Strand(as_tower(config), weights, {}, origin)
    if not model.can_generate():
        return Strand(config, weights, {}, origin, model.config)
    head: Any = model.get_output_embeddings()
    heads = {f"lm_head.{name}": weight for name, weight in head.state_dict().items()}
    return Strand(config, weights, heads, origin, model.config, model.generation_config)


def own_strand(modality: str, config: PlaitConfig) -> PreTrainedConfig:
    """The config of a plait's tower of this modality; its decoder and its text tower may stand for each other."""
    parts = config.encoders | ({} if config.decoder_config is None else {"decoder": config.decoder_config})
    other = {"text": "decoder", "decoder": "text"}.get(modality, modality)
    found = parts.get(modality) or parts.get(other)
    if found is None:
        raise ValueError(f"that plait has no {modality} tower, only {', '.join(config.encoders) or 'a decoder'}")
    return found


def as_tower(config: PreTrainedConfig) -> PreTrainedConfig:
    """A decoder's config as that of a causal text tower, which reads no context; any other as it is."""
    if not isinstance(config, PlaitDecoderConfig):
        return config
    fields: dict[str, Any] = {**config.to_dict(), "cross_attention": False}
    return PlaitTextConfig(**{key: fields[key] for key in fields if key in PlaitTextConfig.__dataclass_fields__})
