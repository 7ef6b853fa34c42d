"""Loads the weights of components into a composed model; every name and shape must fit."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..checkpoints.component import Component
from .composable import ComposableModel


def load_component_weights(model: ComposableModel, name: str, component: Component) -> None:
    """Copies a component's weights into its part of the model.

    The temporal layers of a video tower stay newly initialized, and so does a decoder's cross-attention if the
    checkpoint has none for a context of this width; their names are added to `model.fresh_names`.
    Raises ValueError for any other name or shape that does not fit.
    """
    if not component.weights:
        return
    part = model.parts[name]
    own, weights = part.state_dict(), drop_unfit_cross_attention(component.weights, part)
    new = {key for key in own if key not in weights and (".cross_attn" in key or key.startswith("temporal."))}
    load_exactly(part, weights | {key: own[key] for key in new}, component.origin)
    path = next(path for path, module in model.named_modules() if module is part)
    model.fresh_names |= {f"{path}.{key}" for key in new}


def drop_unfit_cross_attention(weights: Mapping[str, Tensor], part: nn.Module) -> dict[str, Tensor]:
    """Returns the weights without those of cross-attention that the part does not have, or has in another width."""
    own = part.state_dict()
    crossing = {key for key in weights if ".cross_attn" in key}
    fits = all(weights[key].shape == own[key].shape for key in crossing if key in own)
    return {key: weight for key, weight in weights.items() if key not in crossing or (fits and key in own)}


def load_exactly(tower: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copies weights into a tower; raises ValueError unless every name and every shape fits."""
    try:
        tower.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights of {origin} do not fit its config: {error}") from error
