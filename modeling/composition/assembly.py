"""The steps from components to one model that every way of composing shares."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...configuration import CONFIG_FIELDS, PlaitConfig
from ..checkpoints.component import Component
from ..checkpoints.conversion.zeros import freeze_zeros
from .composable import Model
from .decoder import finish_decoder
from .hub import find_start_token
from .weights import load_component_weights


def assemble_model(
    model_class: type[Model],
    components: Mapping[str, Component],
    fields: Mapping[str, Any],
    freeze: str | Sequence[str],
    verbose: bool,
    dtype: Any,
    attn_implementation: str | None,
) -> Model:
    """Builds a model of the components, loads their weights and puts it in evaluation mode.

    fields: the fields of its `PlaitConfig` other than the components' configs; the other arguments as in `compose`.
    """
    config = PlaitConfig(**{**collect_sub_configs(components), **collect_root_fields(components), **fields})
    model = model_class._from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    for name, component in components.items():
        load_component_weights(model, name, component)
    model.origins = {name: component.origin for name, component in components.items()}
    if "decoder" in components:
        finish_decoder(model, components["decoder"])
    freeze_zeros(model.parts.values())
    if freeze:
        model.freeze(*([freeze] if isinstance(freeze, str) else freeze))
    model.eval()
    if verbose:
        print(model.composition())
    return model


def collect_sub_configs(components: Mapping[str, Component]) -> dict[str, Any]:
    """Returns the components' configs as fields of `PlaitConfig`."""
    return {CONFIG_FIELDS.get(name, f"{name}_config"): component.config for name, component in components.items()}


def collect_root_fields(components: Mapping[str, Component]) -> dict[str, Any]:
    """Returns the fields of `PlaitConfig` that transformers reads only from the root of a config, taken from the
    decoder's checkpoint, else from the text tower's."""
    component = components.get("decoder") or components.get("text")
    if component is None:
        return {}
    source = component.source_config if isinstance(component.source_config, PlaitConfig) else component.config
    fields: dict[str, Any] = {"tie_word_embeddings": getattr(source, "tie_word_embeddings", True)}
    if "decoder" in components:
        fields["decoder_start_token_id"] = find_start_token(component.source_config, component.generation)
        fields["lm_head_bias"] = "lm_head.bias" in component.heads and "mlm_head.dense.weight" not in component.heads
    return fields
