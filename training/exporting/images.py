"""The graphs of image generation: the condition, the denoiser and the autoencoder, as diffusers splits a pipeline."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...modeling.graphs import is_recording_graph
from .graphs import Graph, build_graph
from .samples import Axes, Sample, SampleSize, make_encoder_sample

BATCH = {0: "batch"}


def build_image_generation_graphs(model: Any) -> list[Graph]:
    """Builds `condition_model` (towers to the tokens that the denoiser reads), `denoiser` (one step: noisy images and
    times to predicted images) and, with an autoencoder, `vae_decoder` (latents to images). The sampler, which calls the
    denoiser at each time, is no graph."""
    settings = model.denoiser.config
    latents = (settings.num_channels, *settings.height_width)

    def compute_condition(inputs: dict[str, Tensor]) -> list[Tensor]:
        condition = model.encode_condition(inputs, next(iter(inputs.values())).shape[0])
        return [condition.tokens * condition.mask[..., None], condition.mask.long()]

    def make_noisy(size: SampleSize, random: torch.Generator) -> Sample:
        ends = torch.randint(1, size.length + 1, (size.batch, 1), generator=random)
        inputs = {
            "noisy": torch.randn(size.batch, *latents, generator=random),
            "times": torch.rand(size.batch, generator=random),
            "context": torch.randn(size.batch, size.length, settings.context_size, generator=random),
            "context_mask": (torch.arange(size.length)[None] < ends).long(),
        }
        tokens = {**BATCH, 1: "tokens"}
        return Sample(inputs, {"noisy": BATCH, "times": BATCH, "context": tokens, "context_mask": tokens})

    def denoise(inputs: dict[str, Tensor]) -> list[Tensor]:
        if not is_recording_graph():
            return [model.denoiser(*inputs.values())]
        own, settings._attn_implementation = settings._attn_implementation, "eager"
        try:  # the exporter takes another layout of fused attention's result than torch, of which no view can be taken
            return [model.denoiser(*inputs.values())]
        finally:
            settings._attn_implementation = own

    make_inputs = partial(make_encoder_sample, model.config)
    graphs = [
        build_graph("condition_model", model, ("context", "context_mask"), make_inputs, compute_condition),
        build_graph("denoiser", model, ("prediction",), make_noisy, denoise),
    ]
    return graphs if model.config.autoencoder_config is None else [*graphs, build_vae_decoder(model, latents)]


def build_vae_decoder(model: Any, latents: tuple[int, ...]) -> Graph:
    """Builds the graph from standardized latents, (batch, *latents), to images."""
    make_latents = partial(make_pixels, "latent_sample", latents)
    return build_graph(
        "vae_decoder", model, ("sample",), make_latents, lambda inputs: [model.autoencoder.decode(*inputs.values())]
    )


def build_autoencoding_graphs(model: Any) -> list[Graph]:
    """Builds `vae_encoder`, from images to the mean of their latents, and `vae_decoder`, from latents to images; the
    images have a size of four latents each way."""
    settings = model.autoencoder.config
    shape = (settings.num_channels, 4 * settings.downsampling, 4 * settings.downsampling)
    with torch.no_grad():
        latents = model.autoencoder.compute_posterior(torch.zeros(1, *shape)).mean.shape[1:]
    images, makers = "sample", [partial(make_pixels, *each) for each in (("sample", shape), ("latent_sample", latents))]
    return [
        build_graph(
            "vae_encoder",
            model,
            ("latent_sample",),
            makers[0],
            lambda inputs: [model.autoencoder.compute_posterior(inputs[images]).mean],
        ),
        build_graph(
            "vae_decoder",
            model,
            (images,),
            makers[1],
            lambda inputs: [model.autoencoder.coder.decode(*inputs.values())],
        ),
    ]


def make_pixels(name: str, shape: tuple[int, ...], size: SampleSize, random: torch.Generator) -> Sample:
    """Makes images or latents, (batch, *shape), of values about -1 to 1."""
    axes: Axes = {name: BATCH}
    return Sample({name: torch.randn(size.batch, *shape, generator=random).clamp(-1, 1)}, axes)
