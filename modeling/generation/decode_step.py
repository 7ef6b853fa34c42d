"""The decode step: computes one new token by plain functions, which saves the overhead of calls between modules.

`DecodeStep` computes what the decoder's modules compute, from the same parameters, for every field of the config. It is
built when `generate` begins and is used until it ends, or until a hook is registered somewhere or something begins to
watch torch's operations, when it is built again. A leaf module that is not plain (it has a hook, an adapter, or a
quantized weight) is called itself; a decoder with a larger module that is not plain has no decode step. The axis of
tokens is left out, except in calls of modules.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers.activations import GELUActivation, SiLUActivation
from transformers.cache_utils import Cache, EncoderDecoderCache

from ..core.attention import PlaitAttention, PlaitCrossAttention
from ..core.layers import LayerScale, PlaitGatedMLP, PlaitMLP, TanhGate
from ..core.masks import build_step_mask
from ..core.rotary import PlaitRotaryEmbedding, rotate
from ..core.transformer import PlaitLayer, PlaitTransformer
from ..kernels.install import find_kernel
from ..kernels.linear import ChosenLinear, is_choosing, is_large
from ..kernels.plain import is_exact_embedding, is_plain, is_unaltered
from ..kernels.prepacking import PackedLinear, PlainLinear
from ..towers.text import TextEmbeddings, TextTower

TensorFunction = Callable[[Tensor], Tensor]
HeadProjection = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def identity(x: Tensor) -> Tensor:
    """Returns x."""
    return x


def call_module(module: nn.Module) -> TensorFunction:
    """Builds the function that calls a module with the axis of tokens."""
    return lambda x: module(x[:, None])[:, 0]


def build_function(module: nn.Module, call: Callable[[nn.Module], TensorFunction] = call_module) -> TensorFunction:
    """Builds a function of (batch, ...) that computes in eval mode what the module computes of (batch, 1, ...). It
    calls the module, as `call` does, if its class is not in `FUNCTIONS` or it is not plain."""
    make, kernel = FUNCTIONS.get(type(module)), find_kernel(module)
    if isinstance(kernel, PackedLinear) and is_unaltered(module):
        return build_packed(kernel)
    return call(module) if make is None or not is_plain(module) else make(module)


def chain(*modules: nn.Module) -> TensorFunction:
    """Builds the function that computes the modules one after another."""
    functions = [function for function in map(build_function, modules) if function is not identity]
    if len(functions) <= 1:
        return functions[0] if functions else identity

    def compute(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return compute


def build_linear(module: nn.Linear) -> TensorFunction:
    """Builds the function of a linear layer, by the fastest kernel for its weight."""
    weight, bias = module.weight, module.bias
    if may_gain(weight):
        return ChosenLinear(weight, bias)
    transposed = weight.t()
    return (lambda x: x @ transposed) if bias is None else lambda x: torch.addmm(bias, x, transposed)


def build_packed(kernel: PackedLinear) -> TensorFunction:
    """Builds the function of a linear layer with packed weights: of one row without a copy, if none was made for it."""
    if not isinstance(kernel.one, PlainLinear):
        return kernel
    compute_row = build_linear(kernel.linear)
    return lambda x: compute_row(x) if kernel.is_one_row(x) else kernel(x)


def may_gain(weight: Tensor) -> bool:
    """Returns whether another kernel than torch's may be the fastest for one row times the weight."""
    return weight.device.type == "cpu" and is_large(weight)


def build_layer_norm(module: nn.LayerNorm) -> TensorFunction:
    """Builds the function of a layer norm."""
    shape, weight, bias, eps = module.normalized_shape, module.weight, module.bias, module.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def build_rms_norm(module: nn.RMSNorm) -> TensorFunction:
    """Builds the function of an RMS norm."""
    shape, weight, eps = module.normalized_shape, module.weight, module.eps
    return lambda x: F.rms_norm(x, shape, weight, eps)


def build_embedding(module: nn.Embedding) -> TensorFunction:
    """Builds the function of an embedding, which calls it if it has a `max_norm`."""
    weight = module.weight
    return call_module(module) if module.max_norm is not None else lambda ids: torch.embedding(weight, ids)


def build_mlp(module: PlaitMLP) -> TensorFunction:
    """Builds the function of an MLP."""
    up, act, down = build_function(module.up_proj), build_function(module.act), chain(module.dropout, module.down_proj)
    return lambda x: down(act(up(x)))


def build_gated_mlp(module: PlaitGatedMLP) -> TensorFunction:
    """Builds the function of a gated MLP."""
    up, act, down = build_function(module.up_proj), build_function(module.act), chain(module.dropout, module.down_proj)
    gate = build_function(module.gate_proj)
    return lambda x: down(act(gate(x)) * up(x))


FUNCTIONS: dict[type[nn.Module], Callable[[Any], TensorFunction]] = {
    nn.Linear: build_linear,
    nn.LayerNorm: build_layer_norm,
    nn.RMSNorm: build_rms_norm,
    nn.Embedding: build_embedding,
    nn.Identity: lambda module: identity,
    nn.Dropout: lambda module: identity,
    PlaitMLP: build_mlp,
    PlaitGatedMLP: build_gated_mlp,
    LayerScale: lambda module: lambda x: x * module.scale,
    TanhGate: lambda module: lambda x: module.gate.tanh() * x,
    nn.GELU: lambda module: lambda x: F.gelu(x, approximate=module.approximate),
    GELUActivation: lambda module: module.act,
    SiLUActivation: lambda module: F.silu,
    nn.SiLU: lambda module: F.silu,
}


def build_heads(attention: PlaitAttention) -> HeadProjection:
    """Builds the function from x: (batch, width) to its query, key and value, (batch, heads, 1, head_dim) each; by
    one matrix product if the weights are so small that a call costs more than its product."""
    parts, size = [attention.q_proj, attention.k_proj, attention.v_proj], attention.head_dim
    small = all(type(part) is nn.Linear and is_plain(part) and not is_large(part.weight) for part in parts)
    if small and attention.q_proj.in_features == attention.k_proj.in_features:  # a context may have another width
        return build_fused_heads(parts, size)
    query, key, value = (build_function(part) for part in parts)

    def project(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (x.size(0), -1, 1, size)  # for one token, a view does the transposition
        return query(x).view(shape), key(x).view(shape), value(x).view(shape)

    return project


def build_fused_heads(parts: Sequence[nn.Linear], size: int) -> HeadProjection:
    """Builds the function of `build_heads` from copies of the three weights in one matrix; size: that of a head."""
    weight = torch.cat([part.weight for part in parts])
    biases = [part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
    bias, counts, transposed = torch.cat(biases), [len(part.weight) // size for part in parts], weight.t()

    def project(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = torch.addmm(bias, x, transposed).view(x.size(0), -1, 1, size)
        query, key, value = heads.split_with_sizes(counts, 1)
        return query, key, value

    return project


class AttentionStep:
    """Computes `PlaitAttention` for one new token over cached keys and values."""

    def __init__(self, attention: PlaitAttention) -> None:
        self.heads = build_heads(attention)
        self.query, self.out = build_function(attention.q_proj), build_function(attention.o_proj)
        norms = (attention.q_norm, attention.k_norm)  # of heads, which have an axis of tokens
        self.q_norm, self.k_norm = (build_function(norm, call=lambda module: module) for norm in norms)
        self.normed = self.q_norm is not identity or self.k_norm is not identity
        self.head_dim, self.scale, self.layer_idx = attention.head_dim, attention.scaling, attention.layer_idx
        self.grouped = attention.num_key_value_groups > 1

    def attend_self(self, x: Tensor, cache: Cache, mask: Tensor | None, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attends from x: (batch, width) to itself and all cached tokens, and adds it to the cache: (batch, width)."""
        query, key, value = self.heads(x)
        if self.normed:
            query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        layer: Any = cache.layers[self.layer_idx]
        key, value = layer.update(key, value)
        return self.attend(query, key, value, mask)

    def attend_context(self, x: Tensor, cache: Cache, mask: Tensor | None) -> Tensor:
        """Attends from x: (batch, width) to the context, whose keys and values are cached: (batch, width)."""
        layer: Any = cache.layers[self.layer_idx]
        query = self.q_norm(self.query(x).view(x.size(0), -1, 1, self.head_dim))
        return self.attend(query, layer.keys, layer.values, mask)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attends and projects the heads' outputs: (batch, width).

        query, key, value: (batch, heads, tokens, head_dim); mask: (batch, 1, 1, tokens), added to the scores.
        """
        if mask is not None and mask.dtype != query.dtype:  # under autocast
            mask = mask.to(query.dtype)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=self.scale, enable_gqa=self.grouped
        )
        return self.out(attended.flatten(1))


class SublayerStep:
    """Computes one residual sublayer of `PlaitLayer` for one new token: norm, function and scale."""

    def __init__(self, layer: PlaitLayer, name: str, function: Callable[..., Tensor]) -> None:
        self.function, self.pre_norm = function, layer.pre_norm[name]
        self.norm = build_function(layer.get_submodule(f"{name}_norm"))
        self.scale = chain(layer.get_submodule(f"{name}_scale"), layer.dropout)

    def __call__(self, x: Tensor, *inputs: Any) -> Tensor:
        if self.pre_norm:
            return x + self.scale(self.function(self.norm(x), *inputs))
        return self.norm(x + self.scale(self.function(x, *inputs)))


class LayerStep:
    """Computes `PlaitLayer` for one new token."""

    def __init__(self, layer: Any) -> None:
        self.self_attn = SublayerStep(layer, "self_attn", AttentionStep(layer.self_attn).attend_self)
        self.cross_attn = None
        if layer.crosses:
            self.cross_attn = SublayerStep(layer, "cross_attn", AttentionStep(layer.cross_attn).attend_context)
        self.mlp = SublayerStep(layer, "mlp", build_function(layer.mlp))

    def __call__(
        self,
        x: Tensor,
        own: Cache,
        context: Cache | None,
        masks: tuple[Tensor | None, Tensor | None],
        rotary: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        x = self.self_attn(x, own, masks[0], rotary)
        if self.cross_attn is not None and context is not None:
            x = self.cross_attn(x, context, masks[1])
        return self.mlp(x)


class EmbeddingStep:
    """Computes `TextEmbeddings` for one new token; calls the module itself if it has segment embeddings, or positions
    that are counted over real tokens."""

    def __init__(self, embeddings: TextEmbeddings) -> None:
        self.whole = embeddings
        placed = embeddings.position_embedding
        self.known = embeddings.type_embedding is None and not embeddings.counted
        self.known &= placed is None or is_exact_embedding(placed)
        self.tokens, self.scale = build_function(embeddings.token_embedding), embeddings.scale
        self.positions = placed.weight if placed is not None and self.known else None
        self.offset = embeddings.position_offset

    def __call__(self, input_ids: Tensor, position_ids: Tensor | None, past: int) -> Tensor:
        """Maps input_ids: (batch, 1) behind `past` tokens to (batch, width). Raises ValueError beyond the last
        position."""
        full = self.positions is not None and past + self.offset >= len(self.positions)
        if full or not self.known:
            return self.whole(input_ids, position_ids=position_ids, past=past)[:, 0]  # raises beyond the last position
        x = self.tokens(input_ids[:, 0])
        if self.scale != 1:
            x = x * self.scale
        if self.positions is None:
            return x
        if position_ids is None:
            return x + self.positions.narrow(0, past + self.offset, 1)
        places = position_ids[:, 0]
        return x + torch.embedding(self.positions, places + self.offset if self.offset else places)


class DecodeStep:
    """Computes a decoder and its heads, one after the other, for one new token."""

    def __init__(self, decoder: TextTower, *heads: nn.Module) -> None:
        transformer, self.count_positions = decoder.transformer, decoder.count_positions
        self.gains = any(may_gain(weight) for part in (decoder, *heads) for weight in part.parameters())
        self.chooses = self.gains and is_choosing()
        self.hooks, self.rotary = RemovableHandle.next_id, build_rotary(transformer.rotary)
        self.embeddings = EmbeddingStep(decoder.embeddings)
        self.enter = chain(transformer.input_norm, transformer.dropout, transformer.input_proj)
        self.layers = [LayerStep(layer) for layer in transformer.layers]
        self.leave = chain(transformer.output_norm, *heads)

    def __call__(
        self,
        input_ids: Tensor,
        cache: Cache,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Maps input_ids: (batch, 1) to logits: (batch, 1, vocabulary); masks as in `PlaitTransformer.forward`."""
        own, context = cache, None
        if isinstance(cache, EncoderDecoderCache):
            own, context = cache.self_attention_cache, cache.cross_attention_cache
        past = own.get_seq_length()
        if position_ids is None and attention_mask is not None:
            position_ids = self.count_positions(input_ids, None, attention_mask, past)
        x = self.embeddings(input_ids, position_ids, past)
        rotary = None
        if self.rotary is not None:
            positions = torch.full((1, 1), past, device=x.device) if position_ids is None else position_ids
            rotary = self.rotary(x, positions)
        masks = (build_added_mask(attention_mask, x), build_added_mask(context_mask, x))
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x, own, context, masks, rotary)
        return self.leave(x)[:, None]

    @property
    def is_outdated(self) -> bool:
        """Whether a hook was registered, on any module, since the step was built, or kernels are no longer chosen as
        they were then."""
        return RemovableHandle.next_id != self.hooks or (self.gains and is_choosing() != self.chooses)


def build_added_mask(attention_mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Builds what is added to the scores of one new token, x: (batch, width): (batch, 1, 1, cached tokens + 1), -inf
    for padding; None if nothing is padding. torch would make the same of a boolean mask, but in every layer."""
    whole = attention_mask is None or (attention_mask.ndim == 2 and x.device.type == "cpu" and attention_mask.all())
    mask = None if whole else build_step_mask(attention_mask)
    if mask is None or mask.dtype != torch.bool:
        return mask
    return x.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))


def build_rotary(rotary: PlaitRotaryEmbedding | None) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """Returns the function of the rotary embedding: its `forward`, or the module itself if it is not plain."""
    if rotary is None or type(rotary) is not PlaitRotaryEmbedding or not is_plain(rotary):
        return rotary
    return rotary.forward


def list_composite_parts(decoder: TextTower) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    """Yields the modules that the decode step computes part by part, without a call, each with the class that it must
    have."""
    yield from ((decoder, TextTower), (decoder.embeddings, TextEmbeddings))
    yield from ((decoder.transformer, PlaitTransformer), (decoder.transformer.layers, nn.ModuleList))
    for layer in decoder.transformer.layers:
        yield from ((layer, PlaitLayer), (layer.get_submodule("self_attn"), PlaitAttention))
        if layer.crosses:
            yield layer.get_submodule("cross_attn"), PlaitCrossAttention


def build_decode_step(decoder: nn.Module, *heads: nn.Module) -> DecodeStep | None:
    """Builds the decoder's decode step; None for a wrapped decoder, in training mode, with a part larger than a leaf
    that is not plain, or with sliding-window attention."""
    if type(decoder) is not TextTower:
        return None
    if not all(type(part) is exact and is_plain(part) for part, exact in list_composite_parts(decoder)):
        return None
    if decoder.training or set(decoder.transformer.layer_types) != {"full_attention"}:
        return None
    return DecodeStep(decoder, *heads)
