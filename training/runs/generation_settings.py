"""The generation settings of a run."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...configuration.messages import to_one_line
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ..metrics.generation import DEFAULT_NEW_TOKENS
from ..recipes.errors import RecipeError

USUAL_LENGTH = 20  # of a generation config that says nothing about lengths


def set_generation(model: PlaitPreTrainedModel, settings: Mapping[str, Any], keeps_length: bool = False) -> None:
    """Writes settings into the model's generation config, which it uses from then on and after it is reloaded.

    keeps_length: a length that the config has already, as a pretrained speech model does, stays the limit.

    Raises:
        RecipeError: a setting that transformers does not know, or that contradicts another.
    """
    config: Any = model.generation_config
    own = keeps_length and (config.max_length or USUAL_LENGTH) > USUAL_LENGTH
    if not {"max_new_tokens", "max_length"} & settings.keys() and config.max_new_tokens is None and not own:
        settings = {"max_new_tokens": DEFAULT_NEW_TOKENS, **settings}
    if settings.get("num_return_sequences", 1) != 1:
        raise RecipeError(f"generation.num_return_sequences is {settings['num_return_sequences']}: only 1 is supported")
    try:
        unknown = config.update(**settings)
        config.validate()
    except (TypeError, ValueError) as error:
        raise RecipeError(f"generation: {to_one_line(error)}") from error
    if unknown:
        raise RecipeError(f"generation has no setting {', '.join(unknown)}: see transformers' GenerationConfig")


@contextmanager
def use_generation_settings(model: PlaitPreTrainedModel, options: Mapping[str, Any]) -> Iterator[None]:
    """Changes the model's generation settings for as long as the context lasts."""
    usual: Any = model.generation_config
    if options:
        model.generation_config = copy.deepcopy(usual)
        set_generation(model, options, keeps_length=True)
    try:
        yield
    finally:
        model.generation_config = usual
