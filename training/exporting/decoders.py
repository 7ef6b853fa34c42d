"""The graphs of models that generate text: a decoder whose KV cache is an input and an output, and what precedes it.

One graph of the decoder serves the prompt, with a cache of 0 tokens, and every further step. The keys and values of a
context are computed once, by the encoder's graph.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

from ...configuration import width_of
from ...modeling.fusion.base import Stream
from ...modeling.fusion.inline import place_image_tokens
from ..recipes.errors import RecipeError
from .graphs import Graph, MakeSample, build_graph
from .samples import Sample, SampleSize, make_encoder_sample, make_ids, make_tower_sample

LOGITS = "logits"


class CacheShape(NamedTuple):
    """The cached layers of a decoder. layers: the number of key heads and the head's size of each, by layer; kind: ""
    or ".decoder" or ".encoder", as optimum names the caches of a decoder alone, and both of one with a context."""

    layers: dict[int, tuple[int, int]]
    kind: str = ""

    def name(self, prefix: str) -> list[str]:
        """Returns the names of all keys and values: "past_key_values.0.key", ..."""
        return [f"{prefix}.{layer}{self.kind}.{part}" for layer in self.layers for part in ("key", "value")]

    def make(self, batch: int, tokens: int, random: torch.Generator) -> dict[str, Tensor]:
        """Makes the inputs, (batch, heads, tokens, head_dim) each."""
        shapes = [shape for shape in self.layers.values() for _ in range(2)]
        return {
            name: torch.randn(batch, heads, tokens, size, generator=random)
            for name, (heads, size) in zip(self.name("past_key_values"), shapes, strict=True)
        }

    def build(self, inputs: dict[str, Tensor]) -> DynamicCache:
        """Builds the cache that holds these inputs; layers without any are empty."""
        cache: Any = DynamicCache()
        cache.layers = [DynamicLayer() for _ in range(max(self.layers) + 1)]
        given = iter(self.name("past_key_values"))
        for number in self.layers:
            layer: Any = cache.layers[number]
            layer.keys, layer.values = inputs[next(given)], inputs[next(given)]
            layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
        return cache

    def read(self, cache: Any) -> list[Tensor]:
        """Returns the keys and values of a cache, in the order of `name`."""
        return [value for number in self.layers for value in (cache.layers[number].keys, cache.layers[number].values)]


def find_cache_shape(model: Any, kind: str = "") -> CacheShape:
    """Finds the shape of a decoder's own cache: what two tokens leave in it.

    Raises RecipeError for a decoder whose cache holds other than keys and values of every token.
    """
    decoder, cache = model.model.decoder, DynamicCache()
    name = type(decoder.config).__name__
    if not decoder.keeps_cache:
        raise RecipeError(f"the decoder of {name} keeps no cache: it cannot be exported")
    part = model.config.decoder_config
    width = getattr(part, "context_size", None) or width_of(part)
    context = {"context": torch.zeros(1, 1, width), "context_mask": torch.ones(1, 1).long()} if kind else {}
    with torch.no_grad():
        decoder(input_ids=torch.zeros(1, 2, dtype=torch.long), past_key_values=cache, **context)
    layers: list[Any] = list(cache.layers)
    if not layers or any(getattr(layer, "keys", None) is None or layer.keys.shape[2] != 2 for layer in layers):
        raise RecipeError(f"the cache of {name} holds other than the keys and values of each token: not exported")
    return CacheShape({number: (layer.keys.shape[1], layer.keys.shape[3]) for number, layer in enumerate(layers)}, kind)


def make_text(part: Any, size: SampleSize, random: torch.Generator, mask: str, *unused: int | None) -> Sample:
    """Makes new tokens, (batch, length), behind cached ones, and the mask of both, (batch, past + length), with padding
    on the left of all rows but the first."""
    length = size.past + size.length
    padding = torch.randint(0, length, (size.batch, 1), generator=random)
    padding[0] = 0
    inputs = {"input_ids": make_ids(part, (size.batch, size.length), random, *unused)}
    inputs[mask] = (torch.arange(length)[None] >= padding).long()
    return Sample(inputs, {"input_ids": {0: "batch", 1: "length"}, mask: {0: "batch", 1: "past_and_length"}})


def place_text(inputs: dict[str, Tensor], mask: str) -> dict[str, Any]:
    """Returns the decoder's arguments for new tokens, their positions counted over real tokens as in `generate`."""
    ids, real = inputs["input_ids"], inputs[mask]
    return {
        "input_ids": ids,
        "attention_mask": real,
        "position_ids": (real.cumsum(1) - 1).clamp(min=0)[:, real.shape[1] - ids.shape[1] :],
    }


def build_decoder_graph(model: Any, make_sample: MakeSample, compute: Any, cache: CacheShape, mask: str) -> Graph:
    """Builds the graph of a decoder: `logits`, (batch, length, vocabulary), and all keys and values, with the new ones
    (`present`). Numbers at padding mean nothing."""
    present = cache.name("present")
    padded = {LOGITS: (mask, 1)} | dict.fromkeys(present, (mask, 2))
    name = "decoder_model" if model.config.encoders else "model"
    return build_graph(name, model, (LOGITS, *present), make_sample, compute, padded)


def build_causal_graphs(model: Any) -> list[Graph]:
    """Builds the graph of a decoder alone (`model`), or with images inside its text: `vision_model` from images to the
    features that replace image tokens, and `decoder_model`, which takes them at every step."""
    cache, config = find_cache_shape(model), model.config
    inline, token = config.inline, config.image_token_id
    each = model.num_image_tokens if inline else 0  # a tower is built to count them: not while a graph is recorded

    def make_sample(size: SampleSize, random: torch.Generator) -> Sample:
        inputs, axes = make_text(config.decoder_config, size, random, "attention_mask", token)
        if inline:
            sample = make_features(config, each, size, random, inputs["input_ids"])
            inputs, axes = {**inputs, **sample.inputs}, {**axes, **sample.axes}
        past = cache.make(size.batch, size.past, random)
        return Sample({**inputs, **past}, {**axes, **dict.fromkeys(past, {0: "batch", 2: "past"})})

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        past, text = cache.build(inputs), place_text(inputs, "attention_mask")
        if inline:
            text |= insert_features(model, text, inputs, each)
        hidden = model.model.decode(text, past, True, {}).last_hidden_state
        return [model.lm_head(model.lm_transform(hidden)), *cache.read(past)]

    decoder = build_decoder_graph(model, make_sample, compute, cache, "attention_mask")
    return [build_image_graph(model), decoder] if inline else [decoder]


def build_image_graph(model: Any) -> Graph:
    """Builds the graph of the image tower of a model with images inside its text: `image_features`, (batch, images *
    tokens, width of the decoder), and `image_features_mask`, (batch, images * tokens)."""

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        tower = model.model.encode("image", **inputs)
        stream = model.model.connectors["image"](Stream(tower.last_hidden_state, tower.mask.bool()))
        return [stream.tokens * stream.mask[..., None], stream.mask.long()]

    make_sample = partial(make_tower_sample, model.config, "image")
    return build_graph("vision_model", model, ("image_features", "image_features_mask"), make_sample, compute)


def make_features(config: Any, each: int, size: SampleSize, random: torch.Generator, ids: Tensor) -> Sample:
    """Makes features of images, `each` tokens an image, and puts their tokens at the beginning of the text if it is not
    begun yet."""
    width = width_of(config.decoder_config)
    features = torch.randn(size.batch, size.items * each, width, generator=random)
    mask = torch.ones(size.batch, size.items * each).long()
    count = min(ids.shape[1] - 1, mask.shape[1]) if not size.past else 0
    ids[:, :count] = config.image_token_id
    axes = {0: "batch", 1: "image_tokens"}
    named = {"image_features": features, "image_features_mask": mask}
    return Sample(named, dict.fromkeys(named, axes))


def insert_features(model: Any, text: dict[str, Any], inputs: dict[str, Tensor], each: int) -> dict[str, Any]:
    """Returns the decoder's arguments with the features of images, `each` tokens an image, in the place of image
    tokens; these begin behind no cached token."""
    ids, mask = text["input_ids"], text["attention_mask"]
    past = mask.shape[1] - ids.shape[1]
    places = (ids == model.config.image_token_id) & mask[:, past:].bool()
    stream = Stream(inputs["image_features"], inputs["image_features_mask"].bool())
    embeds = model.get_input_embeddings()(ids)
    found = place_image_tokens(embeds, places, stream, each)
    blocks = torch.nn.functional.pad(found.blocks, (past, 0), value=-1)
    placed: dict[str, Any] = {"input_ids": None, "inputs_embeds": found.embeds}
    return placed | ({"blocks": blocks} if model.config.bidirectional_images else {})


def build_seq2seq_graphs(model: Any) -> list[Graph]:
    """Builds `encoder_model`, from the inputs of the towers to the context, its mask, and its keys and values in each
    layer of the decoder, and `decoder_model`, which takes these."""
    layers = getattr(getattr(model.model.decoder, "transformer", None), "layers", None)
    if layers is None:
        raise RecipeError(
            f"the decoder of {type(model.config.decoder_config).__name__} is wrapped, and computes the keys and values "
            "of its context itself: only plait's own decoders can be exported"
        )
    crossing = {number: layer.cross_attn for number, layer in enumerate(layers) if layer.crosses}
    own = find_cache_shape(model, ".decoder")
    context = CacheShape({n: (own.layers[n][0], own.layers[n][1]) for n in crossing}, ".encoder")
    return [build_context_graph(model, crossing, context), build_context_decoder_graph(model, own, context)]


def build_context_graph(model: Any, crossing: dict[int, Any], shape: CacheShape) -> Graph:
    """Builds the graph of the towers and the fusion: `last_hidden_state`, (batch, tokens, width), `encoder_mask`,
    (batch, tokens), and the keys and values of the context, (batch, heads, tokens, head_dim), 0 at padding."""

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        context = model.model.encode_context(**inputs)
        tokens, mask = context.last_hidden_state, context.mask.long()
        pairs = [layer.compute_keys_and_values(tokens, None) for layer in crossing.values()]
        return [tokens * mask[..., None], mask, *(value * mask[:, None, :, None] for pair in pairs for value in pair)]

    outputs = ("last_hidden_state", "encoder_mask", *shape.name("present"))
    return build_graph("encoder_model", model, outputs, partial(make_encoder_sample, model.config), compute)


def build_context_decoder_graph(model: Any, own: CacheShape, context: CacheShape) -> Graph:
    """Builds the graph of the decoder with its own cache, and the keys and values of its context."""

    def make_sample(size: SampleSize, random: torch.Generator) -> Sample:
        inputs, axes = make_text(model.config.decoder_config, size, random, "decoder_attention_mask")
        tokens = size.items + 2
        ends = torch.randint(1, tokens + 1, (size.batch, 1), generator=random)
        inputs["encoder_mask"] = (torch.arange(tokens)[None] < ends).long()
        axes["encoder_mask"] = {0: "batch", 1: "encoder_length"}
        past, keys = own.make(size.batch, size.past, random), context.make(size.batch, tokens, random)
        axes |= dict.fromkeys(past, {0: "batch", 2: "past"}) | dict.fromkeys(keys, {0: "batch", 2: "encoder_length"})
        return Sample({**inputs, **past, **keys}, axes)

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        past = EncoderDecoderCache(own.build(inputs), context.build(inputs))
        past.is_updated = dict.fromkeys(range(len(own.layers)), True)
        mask = inputs["encoder_mask"]
        text = place_text(inputs, "decoder_attention_mask")
        text |= {"context": mask[..., None].float(), "context_mask": mask}  # of which only the length is read
        hidden = model.model.decode(text, past, True, {}).last_hidden_state
        return [model.lm_head(model.lm_transform(hidden)), *own.read(past.self_attention_cache)]

    return build_decoder_graph(model, make_sample, compute, own, "decoder_attention_mask")
