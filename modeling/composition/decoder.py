"""The decoder of a composed model: its config, head, tied weights and generation config."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.utils import logging

from ...configuration import PlaitConfig, PlaitDecoderConfig, PlaitTextConfig
from ..checkpoints.component import Component
from ..towers.wrapped_decoder import check_cross_attention
from .components import DECODER_HEADS, TowerArgument, build_component, without_unused_modules
from .composable import ComposableModel
from .weights import load_exactly

logger = logging.get_logger(__name__)


def build_decoder_component(
    model_class: type[ComposableModel],
    decoder: TowerArgument,
    reads: bool,
    fields: dict[str, Any],
    where: Mapping[str, Any],
) -> Component:
    """Builds a decoder of a text model: causal, with cross-attention if the class's decoder cross-attends to towers.

    reads: whether there are towers to read; fields: fields of the decoder's config to change.
    Raises ValueError for a class without a decoder, for `fields` of a wrapped decoder, or for a wrapped decoder that
    lacks the cross-attention.
    """
    if model_class.decoder_kind is None:
        raise ValueError(
            f"{model_class.__name__} has no decoder: leave out decoder=..., or compose a class that generates"
        )
    component = without_unused_modules(build_component("decoder", decoder, where), "text")
    crosses = reads and model_class.decoder_kind == "context"
    if not isinstance(component.config, PlaitTextConfig):
        if fields:
            raise ValueError(
                f"decoder_config: a wrapped {component.config.model_type} decoder keeps its own config: leave it out"
            )
        if crosses:
            check_cross_attention(component.config)
        return component
    config = component.config.to_dict()
    own = {name: config[name] for name in config if name in PlaitTextConfig.__dataclass_fields__}
    if own["position_type"] == "counted":  # the mask and position_ids mark a decoder's padding, not its tokens
        own["position_type"] = "learned"
    own |= {"is_causal": True, "cross_attention": crosses, "pooling": "none", "context_size": None} | fields
    return component._replace(config=PlaitDecoderConfig(**own))


def finish_decoder(model: ComposableModel, component: Component) -> None:
    """Loads the decoder's head unless tied, adds the image token to the vocabulary and sets the generation config."""
    for name, weights in select_head_weights(component, model.config).items():
        head: Any = getattr(model, name, None)
        if head is not None and weights and next(head.parameters(), None) is not None:
            load_exactly(head, dict(head.state_dict()) | weights, component.origin)
            model.origins["head"] = component.origin
    if model.config.inline:
        size, token = model.config.get_text_config().vocab_size, model.config.image_token_id
        model.config.image_token_id = token = size if token is None else token
        if token >= size:
            model.resize_token_embeddings(token + 1)
    if component.generation is not None and model.can_generate():
        model.generation_config = copy.deepcopy(component.generation)


def select_head_weights(component: Component, config: PlaitConfig) -> dict[str, dict[str, Tensor]]:
    """Returns the checkpoint's weights of the transform and of the projection to the vocabulary that are not tied, by
    their names in each."""
    weights = {
        name: {
            key.removeprefix(f"{name}."): head for key, head in component.heads.items() if key.startswith(f"{name}.")
        }
        for name in DECODER_HEADS
    }
    wanted = {"weight": not config.tie_word_embeddings, "bias": config.lm_head_bias}
    return weights | {"lm_head": {name: weight for name, weight in weights["lm_head"].items() if wanted[name]}}


def without_cross_attention(component: Component, model_class: type[ComposableModel]) -> Component:
    """Returns a decoder that was saved alone without its cross-attention, which has no context to attend to
    (transformers skips it then); warns of the weights that are left out.

    Raises ValueError for a class whose decoder needs a context.
    """
    config = component.config
    if not isinstance(config, PlaitDecoderConfig) or not config.cross_attention:
        return component
    if model_class.decoder_kind == "context":
        raise ValueError(
            f"{component.origin} holds a decoder alone, and its cross-attention has no towers to attend to: compose it "
            f"with them, {model_class.__name__}.compose(image=..., decoder={component.origin!r}), or load it with "
            "PlaitForCausalLM"
        )
    kept = {name: weight for name, weight in component.weights.items() if ".cross_attn" not in name}
    logger.warning(
        f"{component.origin} holds a decoder alone: {len(component.weights) - len(kept)} weights of its "
        "cross-attention are left out, since there is no context; to use them, compose it with a tower: "
        "PlaitForConditionalGeneration.compose(image=..., decoder=...)"
    )
    alone: Any = copy.copy(config)
    alone.cross_attention = False
    return component._replace(config=alone, weights=kept)
