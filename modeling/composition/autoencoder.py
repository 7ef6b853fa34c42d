"""Reads the autoencoder of image generation, our own or one of diffusers, from a folder or the Hub."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ...configuration import PlaitAutoencoderConfig, PlaitConfig
from ..checkpoints.component import READY_MODEL
from ..checkpoints.source import open_checkpoint
from ..diffusion.diffusers_coder import find_latent_scale, load_diffusers, read_diffusers_config
from .composable import ComposableModel
from .hub import pop_checkpoint_options, read_config_dict
from .weights import load_exactly

PREFIX = "autoencoder."
WEIGHT_OPTIONS = ("variant", "use_safetensors")  # of loading, which reading a config does not take
AutoencoderArgument = str | PathLike[str] | nn.Module


class LoadedAutoencoder(NamedTuple):
    """An autoencoder before composing. weights: by their names in `ImageAutoencoder`; origin: where they came from."""

    config: PlaitAutoencoderConfig
    weights: Mapping[str, Tensor]
    origin: str


def read_autoencoder(source: AutoencoderArgument, where: Mapping[str, Any]) -> LoadedAutoencoder:
    """Reads an autoencoder.

    Args:
        source: a folder or Hub id of diffusers' AutoencoderKL or AutoencoderTiny, or of a plait model that has an
            autoencoder; "owner/name/folder" is a folder inside a repository, such as the vae of a pipeline. Or one of
            these two classes itself.
        where: options of loading, as in `compose`, without `subfolder`.

    Raises:
        OSError: no config.json or no weights.
        ValueError: a checkpoint without autoencoder, or of another class.
        ImportError: an autoencoder of diffusers without diffusers.
    """
    if isinstance(source, nn.Module):
        return wrap_diffusers(source, READY_MODEL)
    name, options = find_repository(str(source), where)
    content = read_source_config(name, options)
    if "_class_name" in content:
        loaded = load_diffusers(name, content["_class_name"], {"use_safetensors": True, **options})
        return wrap_diffusers(loaded, str(source))
    settings = read_own_config(content, str(source))
    tensors = open_checkpoint(name, **options).tensors
    weights = {key.removeprefix(PREFIX): tensors[key] for key in tensors if key.startswith(PREFIX)}
    return LoadedAutoencoder(settings, weights, str(source))


def read_autoencoder_config(source: str | PathLike[str], where: Mapping[str, Any]) -> PlaitAutoencoderConfig:
    """Reads the config of an autoencoder alone; see `read_autoencoder`."""
    content = read_source_config(*find_repository(str(source), pop_checkpoint_options(dict(where))))
    if "_class_name" in content:
        return PlaitAutoencoderConfig(diffusers_config=content)
    return read_own_config(content, str(source))


def read_source_config(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the config.json of a folder or repository."""
    return read_config_dict(name, {key: value for key, value in options.items() if key not in WEIGHT_OPTIONS})


def find_repository(source: str, where: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the folder or Hub id, and the options of loading; "owner/name/folder" has a `subfolder`."""
    options = {key: value for key, value in where.items() if key != "subfolder"}
    parts = source.split("/")
    if Path(source).exists() or len(parts) < 3 or not all(parts):
        return source, options
    return "/".join(parts[:2]), {**options, "subfolder": "/".join(parts[2:])}


def read_own_config(content: Mapping[str, Any], source: str) -> PlaitAutoencoderConfig:
    """Returns the autoencoder's config of the content of a config.json; raises ValueError if there is none."""
    own = content.get("autoencoder_config") if content.get("model_type") == PlaitConfig.model_type else None
    if own is None:
        raise ValueError(
            f"{source} has no autoencoder: pass the folder of a PlaitForImageAutoencoding, or of diffusers' "
            "AutoencoderKL or AutoencoderTiny (of a pipeline, its folder vae)"
        )
    return PlaitAutoencoderConfig.from_dict(dict(own))


def wrap_diffusers(module: nn.Module, origin: str) -> LoadedAutoencoder:
    """Returns an autoencoder of diffusers with the scale of its config."""
    content = read_diffusers_config(module)
    mean, std = find_latent_scale(content)
    weights = {f"coder.module.{key}": weight for key, weight in module.state_dict().items()}
    scale = {"scale.mean": mean, "scale.std": std}
    return LoadedAutoencoder(PlaitAutoencoderConfig(diffusers_config=content), weights | scale, origin)


def load_autoencoder(model: ComposableModel, autoencoder: LoadedAutoencoder) -> None:
    """Copies the weights of an autoencoder into a model; raises ValueError unless every name and shape fits."""
    part: Any = model.get_submodule(PREFIX.removesuffix("."))
    load_exactly(part, autoencoder.weights, autoencoder.origin)
    model.origins["autoencoder"] = autoencoder.origin
