"""Composing for image generation: towers from any source, and a new denoiser that reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...configuration import PlaitConfig, PlaitDenoiserConfig
from ..checkpoints.component import Component
from .assembly import assemble_model, collect_sub_configs
from .autoencoder import AutoencoderArgument, LoadedAutoencoder, load_autoencoder, read_autoencoder
from .components import TowerArgument, as_video_component, build_component, select_pooler
from .composable import Model
from .compose import build_fusion_fields
from .hub import pop_checkpoint_options

PATCH_SIZE, LATENT_PATCH_SIZE = 8, 2


def compose_image_generation(
    model_class: type[Model],
    text: TowerArgument = None,
    image: TowerArgument = None,
    audio: TowerArgument = None,
    video: TowerArgument = None,
    *,
    autoencoder: AutoencoderArgument | None = None,
    image_size: int | list[int] = 64,
    patch_size: int | None = None,
    hidden_size: int = 192,
    num_hidden_layers: int = 6,
    num_attention_heads: int | None = None,
    denoiser_config: PlaitDenoiserConfig | Mapping[str, Any] | None = None,
    fusion: str | Any = None,
    query: str | None = None,
    connector: str = "linear",
    fusion_config: Mapping[str, Any] | None = None,
    video_config: Mapping[str, Any] | None = None,
    freeze: str | Sequence[str] = (),
    verbose: bool = True,
    dtype: Any = None,
    attn_implementation: str | None = None,
    **options: Any,
) -> Model:
    """Composes towers, which read the condition, and a new denoiser into a model of `model_class`: see
    `PlaitForImageGeneration.compose`, which documents the other arguments and the errors."""
    where = pop_checkpoint_options(options)
    given = {"text": text, "image": image, "audio": audio}
    given["video"] = as_video_component(video, dict(video_config or {}), where)
    components = {name: build_component(name, tower, where) for name, tower in given.items() if tower is not None}
    if not components:
        raise ValueError("compose needs at least one tower: text=..., image=..., audio=... or video=...")
    components = {name: select_pooler(component, name, pooled=False) for name, component in components.items()}
    extra = {"query": query, "connector": connector, **(fusion_config or {})}
    fields = build_fusion_fields(model_class, components, fusion, extra)
    latents = None if autoencoder is None else read_autoencoder(autoencoder, where)
    sizes = {
        **find_latent_sizes(latents, image_size),
        "patch_size": patch_size or (PATCH_SIZE if latents is None else LATENT_PATCH_SIZE),
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads or max(1, hidden_size // 48),
    }
    settings = build_denoiser_config(denoiser_config, sizes, find_condition_width(components, fields))
    fields = {**fields, "denoiser_config": settings, **options}
    if latents is None:
        return assemble_model(model_class, components, fields, freeze, verbose, dtype, attn_implementation)
    fields["autoencoder_config"] = latents.config
    model = assemble_model(model_class, components, fields, freeze, False, dtype, attn_implementation)
    load_autoencoder(model, latents)
    if verbose:
        print(model.composition())
    return model


def find_latent_sizes(autoencoder: LoadedAutoencoder | None, image_size: int | list[int]) -> dict[str, Any]:
    """Returns the sizes of what the denoiser of images of `image_size` pixels works on; raises ValueError for no
    multiple of the autoencoder's downsampling."""
    if autoencoder is None:
        return {"image_size": image_size}
    factor = autoencoder.config.downsampling
    sides = image_size if isinstance(image_size, list) else [image_size]
    if any(side % factor for side in sides):
        raise ValueError(
            f"image_size {image_size} is no multiple of the autoencoder's downsampling {factor}: change image_size"
        )
    size = [side // factor for side in sides]
    channels = autoencoder.config.latent_channels
    return {"image_size": size if isinstance(image_size, list) else size[0], "num_channels": channels}


def find_condition_width(components: Mapping[str, Component], fields: Mapping[str, Any]) -> int:
    """Returns the width of the condition's tokens."""
    return PlaitConfig(**{**collect_sub_configs(components), **fields}).hidden_size


def build_denoiser_config(
    given: PlaitDenoiserConfig | Mapping[str, Any] | None, sizes: Mapping[str, Any], context_size: int
) -> PlaitDenoiserConfig:
    """Builds the denoiser's config from a config or its fields and the condition's width."""
    if isinstance(given, PlaitDenoiserConfig):
        given.context_size = context_size
        return given
    return PlaitDenoiserConfig(**{**sizes, **(given or {}), "context_size": context_size})
