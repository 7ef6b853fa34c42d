"""Composing an autoencoder to train: a new one, or one from a folder."""

from collections.abc import Mapping
from typing import Any

from ...configuration import PlaitAutoencoderConfig, PlaitConfig
from .autoencoder import AutoencoderArgument, load_autoencoder, read_autoencoder
from .composable import Model
from .hub import pop_checkpoint_options


def compose_image_autoencoding(
    model_class: type[Model],
    autoencoder: AutoencoderArgument | None = None,
    *,
    autoencoder_config: PlaitAutoencoderConfig | Mapping[str, Any] | None = None,
    verbose: bool = True,
    dtype: Any = None,
    **options: Any,
) -> Model:
    """Composes an autoencoder of `model_class`: see `PlaitForImageAutoencoding.compose`, which documents the other
    arguments and the errors."""
    where = pop_checkpoint_options(options)
    if autoencoder is not None and autoencoder_config is not None:
        raise ValueError("autoencoder has a config of its own: leave autoencoder_config out")
    loaded = None if autoencoder is None else read_autoencoder(autoencoder, where)
    settings = autoencoder_config if loaded is None else loaded.config
    if not isinstance(settings, PlaitAutoencoderConfig):
        settings = PlaitAutoencoderConfig(**(settings or {}))
    model = model_class._from_config(PlaitConfig(autoencoder_config=settings, **options), dtype=dtype)
    if loaded is not None:
        load_autoencoder(model, loaded)
    model.eval()
    if verbose:
        print(model.composition())
    return model
