"""Generation in all classes with a decoder: a decode step for each new token, and a preallocated KV cache."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from ..core.attention import select_self_attention_cache
from ..core.masks import is_dynamic_cache
from ..core.rows import check_ids, check_text_rows
from ..inputs import MODALITY_INPUTS, OutputOptions
from .cache import PreallocatedCacheLayer
from .continuing import count_cached_tokens, repeat_cache_rows
from .decode_step import DecodeStep, build_decode_step

# inputs that only the prefill takes
PROMPT_INPUTS = frozenset(
    ("inputs_embeds", *(name for part in MODALITY_INPUTS if part != "text" for name in MODALITY_INPUTS[part]))
)
# inputs that a decode step passes on unchanged; with any other argument transformers prepares the inputs
STEP_INPUTS = PROMPT_INPUTS | {"use_cache", "logits_to_keep", "encoder_outputs", *OutputOptions.__annotations__}


class PlaitGenerationMixin:
    """Overrides methods of transformers' `GenerationMixin`, which must come later in the class's bases."""

    config: Any
    generation_config: Any
    decode_step: DecodeStep | None = None  # only set during `generate`

    @contextmanager
    def use_decode_step(self) -> Iterator[None]:
        """Computes each new token inside this context by the decode step, if the decoder has one."""
        model: Any = self
        if model.config.get_text_config()._attn_implementation == "sdpa" and not model.training:
            self.decode_step = self.build_own_decode_step()
        try:
            yield
        finally:
            self.decode_step = None

    def build_own_decode_step(self) -> DecodeStep | None:
        """Builds the decode step of the model as it is now; None if its decoder has none."""
        model: Any = self
        return build_decode_step(model.model.decoder, model.lm_transform, model.lm_head)

    def find_option(self, name: str, kwargs: Mapping[str, Any]) -> Any:
        """Returns an option of `generate`: the first that is set in the call, its generation config, the model's
        generation config or, for a token id, the model's config; else None."""
        configs = [kwargs.get("generation_config"), self.generation_config]
        configs += [self.config] if name.endswith("_token_id") else []
        values = (kwargs.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in values if value is not None), None)

    def check_generation(self, kwargs: Mapping[str, Any]) -> None:
        """Raises ValueError for numbers of beams or sequences below 1, which transformers takes, and for prompts on a
        GPU with an id outside the vocabulary, which would end the process there."""
        for name in ("num_beams", "num_return_sequences"):
            value = self.find_option(name, kwargs)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is {value!r}: pass a whole number, 1 or more")
        parts: dict[str, Any] = cast("Any", self).parts
        readers = {"input_ids": parts.get("text", parts["decoder"]), "decoder_input_ids": parts["decoder"]}
        for name, part in readers.items():
            ids = kwargs.get(name)
            if isinstance(ids, Tensor) and ids.is_cuda:
                check_ids(ids, len(part.get_input_embeddings().weight), "tokens")

    def compute_step_logits(self, inputs: Mapping[str, Any], prefix: str = "") -> Tensor | None:
        """Computes the logits of one new token, (batch, 1, vocabulary), by the decode step; None if the call is not for
        one new token over a cache, or needs more than logits.

        inputs: the arguments of `forward`, those of the decoder with this prefix.
        """
        tokens, cache = inputs.get(f"{prefix}input_ids"), inputs.get("past_key_values")
        if (
            self.decode_step is None
            or cache is None
            or tokens is None
            or tokens.shape[1] != 1
            or torch.is_grad_enabled()
        ):
            return None
        if self.decode_step.is_outdated:
            self.decode_step = self.build_own_decode_step()
            return self.compute_step_logits(inputs, prefix)
        own = select_self_attention_cache(cache)
        if not own.layers or type(own.layers[0]) is not PreallocatedCacheLayer or not own.get_seq_length():
            return None
        if any(inputs.get(name) for name in OutputOptions.__annotations__):
            return None
        context = (inputs.get("encoder_outputs") or {}).get("mask")
        return self.decode_step(
            tokens, cache, inputs.get(f"{prefix}attention_mask"), inputs.get(f"{prefix}position_ids"), context
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        position_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Prepares the arguments of `forward` for one new token over a dynamic cache; for the prefill and everything
        else transformers does."""
        is_step = next_sequence_length == 1 and not is_first_iteration and is_dynamic_cache(past_key_values)
        given = {"position_ids": position_ids, "decoder_attention_mask": decoder_attention_mask}
        if not is_step or not kwargs.keys() <= STEP_INPUTS:
            kwargs |= {name: value for name, value in given.items() if value is not None}
            if (
                self.config.is_encoder_decoder
                and decoder_attention_mask is not None
                and decoder_attention_mask.ndim == 2
            ):
                kwargs["decoder_position_ids"] = compute_last_positions(decoder_attention_mask, input_ids.shape[1])
            begins = bool(is_first_iteration) or not kwargs.get("use_cache", True)
            if kwargs.get("encoder_outputs") is not None and getattr(self, "assistant_images", None):
                begins = begins or not count_cached_tokens(past_key_values)  # transformers begins no assistant's text
            prepared = super().prepare_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue]
                input_ids,
                next_sequence_length=next_sequence_length,
                past_key_values=past_key_values,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                is_first_iteration=is_first_iteration,
                **kwargs,
            )
            return self.select_step_inputs(prepared, begins)
        step = {name: value for name, value in kwargs.items() if name not in PROMPT_INPUTS}
        if self.config.is_encoder_decoder:
            step |= {"decoder_input_ids": input_ids[:, -1:], "decoder_attention_mask": decoder_attention_mask}
            step["decoder_position_ids"] = compute_last_positions(decoder_attention_mask, 1)
        else:
            step.pop("encoder_outputs", None)
            step |= {"input_ids": input_ids[:, -1:], "attention_mask": attention_mask}
            step["position_ids"] = None if position_ids is None else position_ids[:, -1:]
        return {**step, "past_key_values": past_key_values}

    def select_step_inputs(self, prepared: dict[str, Any], with_images: bool) -> dict[str, Any]:
        """Removes arguments that transformers prepared but `forward` must not get: the mask of the encoder in an
        encoder-decoder, and the images of a decoder-only model after its prefill (unless `with_images`)."""
        if self.config.is_encoder_decoder:
            prepared.pop("attention_mask", None)
        elif not with_images:
            for name in ("encoder_outputs", *PROMPT_INPUTS - {"inputs_embeds"}):
                prepared.pop(name, None)
        return prepared

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """Repeats every row for beams or returned sequences as transformers does, and those of a cache that is
        continued."""
        cache = kwargs.get("past_key_values")
        if expand_size > 1 and count_cached_tokens(cache):
            repeat_cache_rows(cache, expand_size)
        library: Any = super()
        return library._expand_inputs_for_generation(expand_size, **kwargs)

    def _valid_auto_compile_criteria(self, *args: Any, **kwargs: Any) -> bool:
        """Returns whether `generate` compiles the decode steps over a static cache: as transformers says, but not with
        a wrapped part that cannot be compiled as one graph."""
        model, library = cast("Any", self), cast("Any", super())
        return library._valid_auto_compile_criteria(*args, **kwargs) and model._can_compile_fullgraph

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> None:
        """Prepares the cache as transformers does, with preallocated layers in a plain `DynamicCache`; turns the cache
        off for a decoder that does not support one. Raises ValueError for a row without a token."""
        if not cast("Any", self).model.decoder.keeps_cache:
            generation_config.use_cache = model_kwargs["use_cache"] = False
        given = model_kwargs.get("past_key_values")
        if given is None and not self.config.is_encoder_decoder:
            check_text_rows(model_kwargs.get("attention_mask"))
        super()._prepare_cache_for_generation(  # pyright: ignore[reportAttributeAccessIssue]
            generation_config, model_kwargs, *args
        )
        cache = model_kwargs.get("past_key_values")
        if given is None and isinstance(cache, EncoderDecoderCache):
            cache.cross_attention_cache = DynamicCache()  # transformers' would keep only a window of the context
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        if given is None and type(own) is DynamicCache and not own.offloading:
            own.layers = [PreallocatedCacheLayer() if type(layer) is DynamicLayer else layer for layer in own.layers]
            if own.layer_class_to_replicate is DynamicLayer:
                own.layer_class_to_replicate = PreallocatedCacheLayer


def compute_last_positions(mask: Tensor | None, last: int) -> Tensor | None:
    """Computes the positions of the last tokens, (batch, last), counted over real tokens; None without a mask.

    mask: (batch, length), 1 for a token.
    """
    return None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)[:, -last:]
