"""Conditional generation: a decoder cross-attends to the fused tokens of the towers and generates text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin
from transformers.utils.generic import can_return_tuple

from ...configuration import PlaitConfig
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..generation.continuing import count_cached_tokens, is_whole_text
from ..generation.fallback import (
    Fallback,
    WindowScore,
    compute_window_score,
    generate_with_fallback,
    take_fallback,
)
from ..generation.long_audio import (
    LongAudio,
    check_window_options,
    find_long_audio,
    generate_windows,
    pad_texts,
    select_window_tokens,
)
from ..generation.mixin import PlaitGenerationMixin
from ..generation.whisper_prompt import PROMPT_OPTIONS, build_decoder_prompt, build_timestamp_processors
from ..heads.language_model import (
    LanguageModelHead,
    add_lm_head,
    check_decoder_config,
    mask_until_last_label,
    shift_labels_right,
)
from ..inputs import MODALITY_INPUTS, ConditionalGenerationInputs, expand_signature
from ..outputs import ContextOutput, PlaitModelOutput, PlaitSeq2SeqLMOutput


class PlaitForConditionalGeneration(LanguageModelHead, PlaitGenerationMixin, PlaitPreTrainedModel, GenerationMixin):
    """An encoder-decoder model for captioning, generative question answering, speech to text, translation,
    summarisation or dialogue: the fused tokens of any towers are the context of a decoder's cross-attention.

    Raises:
        ValueError: no decoder, or a decoder without cross-attention (use `PlaitForCausalLM`).
    """

    decoder_kind = "context"
    # set only in an assistant model during `generate`: the output of its own towers
    assistant_context: ContextOutput | None = None

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        check_decoder_config(config, type(self).__name__, reads_context=True)
        self.model = PlaitModel(config)
        add_lm_head(self)
        self.post_init()

    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Generates text by transformers' `generate`. The towers run once, on the inputs as passed. The generated text
        continues `decoder_input_ids` if given (without a text tower, `input_ids` too).

        Speech models (Whisper) also take `language` (a name or code, one for all rows or a list; None: detected by a
        multilingual checkpoint), `task` ("transcribe" or "translate") and `return_timestamps`. A clip may be
        longer than the audio tower reads (`processor(..., audio_kwargs={"truncation": False})`): it is read in windows,
        whose tokens are returned without the decoder prompt. With several temperatures, `temperature=(0.0, 0.2, ...)`,
        a window whose text fails `compression_ratio_threshold`, `logprob_threshold` or `no_speech_threshold` is drawn
        again at the next, as transformers' Whisper does; the same seed for each window makes it the same every time (a
        clip of one window is read once).
        """
        kwargs["generation_config"] = generation_config
        if inputs is not None:
            kwargs[self.main_input_name] = inputs
        self.check_generation(kwargs)
        fallback = take_fallback(kwargs)
        if (audio := find_long_audio(self.config, kwargs)) is not None:
            return self.generate_from_windows(audio, args, kwargs, fallback)
        if "text" not in self.model.towers and "input_ids" in kwargs:
            kwargs["decoder_input_ids"] = kwargs.pop("input_ids")
            kwargs["decoder_attention_mask"] = kwargs.pop("attention_mask", None)
        kwargs |= self.begin_text(kwargs)
        read = {
            name: kwargs.pop(name)
            for names in MODALITY_INPUTS.values()
            for name in names
            if kwargs.get(name) is not None
        }
        given = kwargs.pop("encoder_outputs", None)
        recorded = {name: kwargs.get(name) for name in ("output_attentions", "output_hidden_states")}
        with torch.no_grad():
            context = self.model.encode_context(**read, encoder_outputs=given, **recorded)
        if context.mask is not None and bool(context.mask.all()):
            context = ContextOutput(**{**context, "mask": None})  # nothing is padded: no decode step needs the mask
        text_inputs = {
            name: read[name] for name in ("input_ids",) if name in read
        }  # some logits processors compare the output with the input
        kwargs = self.add_decoder_prompt(context, kwargs)
        library: Any = super()
        with self.use_decode_step(), use_assistant_context(kwargs.get("assistant_model"), read):
            given = kwargs.pop("generation_config")
            return library.generate(None, given, *args, encoder_outputs=context, **text_inputs, **kwargs)

    def generate_from_windows(
        self, audio: LongAudio, args: Sequence[Any], kwargs: dict[str, Any], fallback: Fallback | None = None
    ) -> Tensor:
        """Generates the text of clips of which some are longer than the audio tower reads, these window by window: a
        window begins where the last finished segment of the one before ends or, for a model without timestamps, behind
        it. A clip of one window is read as it is alone.

        Returns tokens (batch, length), with timestamps if they are requested. Raises ValueError for options that
        concern one window alone.
        """
        without, wanted = (self.find_option(name, kwargs) for name in ("no_timestamps_token_id", "return_timestamps"))
        check_window_options(kwargs, self.find_option("num_return_sequences", kwargs))
        first = None if without is None else without + 1
        texts = [list[int]() for _ in audio.frames]
        for rows, timed in ((audio.short_rows, wanted), (audio.long_rows, wanted or first is not None)):
            if rows:
                clips, options = audio.select(rows), {**kwargs, "return_timestamps": timed}
                prompts, rest = self.build_window_prompts(clips, options, rows)
                generate = partial(self.generate, None, kwargs["generation_config"], *args, **rest)
                is_long = rows == audio.long_rows
                write = self.build_window_writer(generate, fallback if is_long else None, kwargs)
                found = generate_windows(write, clips, prompts, first if is_long else None)
                for row, text in zip(rows, found, strict=True):
                    texts[row] = text if wanted or first is None else [token for token in text if token < first]
        return pad_texts(texts, self.find_option("pad_token_id", kwargs), audio.features)

    def build_window_writer(
        self, generate: Callable[..., Tensor], fallback: Fallback | None, kwargs: Mapping[str, Any]
    ) -> Callable[[Tensor, Tensor], list[list[int]]]:
        """Builds the function that returns the text of each window behind its prompt, with the fallback if there is
        one."""
        end, without = (self.find_option(name, kwargs) for name in ("eos_token_id", "no_timestamps_token_id"))
        select = partial(select_window_tokens, end=end)
        if fallback is None:
            return lambda windows, prompts: [
                select(tokens[prompts.shape[1] :])
                for tokens in generate(input_features=windows, decoder_input_ids=prompts).tolist()
            ]
        last = end[0] if isinstance(end, (list, tuple)) else end

        def score(window: Tensor, prompt: Tensor, text: list[int]) -> WindowScore:
            tokens = torch.tensor([[*prompt[0].tolist(), *text]], device=prompt.device)
            with torch.no_grad():
                logits = self(input_features=window, decoder_input_ids=tokens).logits[0]
            silence = None if without is None else without - 1
            return compute_window_score(logits, [*text, last], prompt.shape[1], silence)

        vocabulary = self.config.get_text_config().vocab_size
        return partial(generate_with_fallback, generate, score, fallback, select, vocabulary)

    def build_window_prompts(
        self, audio: LongAudio, kwargs: dict[str, Any], rows: Sequence[int]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Builds the decoder prompts, (rows, tokens), of these rows' windows; a language is detected in the first.

        Returns them with the arguments of `generate` that every window gets.
        """
        if isinstance(kwargs.get("language"), (list, tuple)):
            kwargs["language"] = [kwargs["language"][row] for row in rows]
        find_option = partial(self.find_option, kwargs=kwargs)
        start = find_option("decoder_start_token_id")

        def detect(languages: Sequence[int]) -> list[int]:
            windows = audio.cut(range(len(rows)), [0] * len(rows))
            return self.detect_language(self.model.encode_context(input_features=windows), start, languages)

        prompts = build_decoder_prompt(find_option, len(rows), detect) or [[start]] * len(rows)
        used = {*MODALITY_INPUTS["audio"], "attention_mask", "language", "task", "generation_config"}
        rest = {name: value for name, value in kwargs.items() if name not in used}
        return torch.tensor(prompts, device=audio.features.device), rest

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any], model_input_name: str | None = None, *args: Any
    ) -> dict[str, Any]:
        """Returns the arguments with `encoder_outputs`: transformers calls this to run the encoder.

        `generate` has already encoded the inputs; only an assistant model encodes its own here.
        """
        if model_kwargs.get("encoder_outputs") is not None:
            return model_kwargs
        source = {model_input_name or self.main_input_name: inputs_tensor}
        with torch.no_grad():
            own = self.assistant_context or self.model.encode_context(
                **source, attention_mask=model_kwargs.get("attention_mask")
            )
        return {**model_kwargs, "encoder_outputs": own}

    _prepare_encoder_decoder_kwargs_for_generation = _maybe_prepare_encoder_kwargs_for_generation  # its older name

    def begin_text(self, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the decoder's text of the arguments of `generate`, from its start token, and its mask, without which
        transformers computes cached tokens again; nothing if the text is not begun yet.

        Raises ValueError for a cache without its text, and as `is_whole_text` does.
        """
        text, mask, cache = (
            kwargs.get(name) for name in ("decoder_input_ids", "decoder_attention_mask", "past_key_values")
        )
        cached = count_cached_tokens(cache)
        if text is None and cached:
            raise ValueError(
                f"past_key_values hold {cached} tokens of a text: pass it as decoder_input_ids to continue it"
            )
        if text is None or (cached and not is_whole_text(text, mask, cache)):
            return {}
        begun = prepend_start_token(text, mask, self.find_option("decoder_start_token_id", kwargs))
        if not cached and bool(begun["decoder_attention_mask"].all()):  # no decode step needs the mask
            kwargs.pop("decoder_attention_mask", None)
            del begun["decoder_attention_mask"]
        return begun

    def _prepare_decoder_input_ids_for_generation(
        self, batch_size: int, model_input_name: str, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Returns the decoder's text and the other arguments: that of `begin_text` as it is (transformers would put a
        start token before new tokens of a cached text, and before padding)."""
        if model_kwargs.get("decoder_input_ids") is not None:
            return model_kwargs.pop("decoder_input_ids"), model_kwargs
        library: Any = super()
        given = (batch_size, model_input_name, model_kwargs, *args)
        return library._prepare_decoder_input_ids_for_generation(*given, **kwargs)

    def add_decoder_prompt(self, context: ContextOutput, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Replaces the prompt options of `generate` (language, task, ...) by the decoder prompt that they stand for, as
        `decoder_input_ids`, (batch, tokens): see `generation/whisper_prompt.py`.

        Raises ValueError for a language or task together with a text to continue.
        """
        find_option, first = partial(self.find_option, kwargs=dict(kwargs)), context.last_hidden_state
        prompt_options = {name: kwargs.pop(name) for name in PROMPT_OPTIONS if name in kwargs}
        prompt_inputs = {"decoder_input_ids", "decoder_inputs_embeds"} & kwargs.keys()
        if prompt_inputs and (given := [name for name in ("language", "task") if prompt_options.get(name) is not None]):
            raise ValueError(
                f"{', '.join(prompt_inputs)} and {', '.join(given)} each begin the text: pass only one of them"
            )
        if not prompt_inputs:
            texts = build_decoder_prompt(
                find_option, len(first), partial(self.detect_language, context, find_option("decoder_start_token_id"))
            )
            kwargs |= {} if texts is None else {"decoder_input_ids": torch.tensor(texts, device=first.device)}
        length = kwargs["decoder_input_ids"].shape[1] if "decoder_input_ids" in kwargs else 1
        processors = build_timestamp_processors(
            find_option, self.generation_config, length, kwargs.get("logits_processor")
        )
        return kwargs if processors is None else {**kwargs, "logits_processor": processors}

    @torch.no_grad()
    def detect_language(self, context: ContextOutput, start: int, languages: Sequence[int]) -> list[int]:
        """Returns the most likely of these language tokens after the start token, one for each row."""
        tokens = torch.full((len(context.last_hidden_state), 1), start, device=context.last_hidden_state.device)
        logits = self(encoder_outputs=context, decoder_input_ids=tokens, use_cache=False).logits[:, -1]
        known = torch.tensor(languages, device=logits.device)
        return known[logits[:, known].argmax(dim=1)].tolist()

    @can_return_tuple
    @expand_signature
    def forward(
        self,
        *,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: Unpack[ConditionalGenerationInputs],
    ) -> PlaitSeq2SeqLMOutput:
        """Predicts the next token at each position of the decoder's text. Takes the inputs of `PlaitModel`.

        Args:
            labels: (batch, length), the text to be generated, -100 where nothing is to be predicted. Without
                decoder_input_ids the decoder reads them shifted right, after `config.decoder_start_token_id`.
            logits_to_keep, num_items_in_batch, label_smoothing: as in `PlaitForCausalLM`.
        """
        smoothing = inputs.pop("label_smoothing", 0.0)
        if labels is not None:
            inputs |= self.build_decoder_inputs(labels, inputs)
            inputs["use_cache"] = False
        elif (
            inputs.get("encoder_outputs") is not None
            and (step := self.compute_step_logits(inputs, "decoder_")) is not None
        ):
            return PlaitSeq2SeqLMOutput(logits=step, past_key_values=inputs.get("past_key_values"))
        options = (logits_to_keep, num_items_in_batch, smoothing)
        return build_seq2seq_output(*self.predict_tokens(inputs, labels, *options))

    def build_decoder_inputs(self, labels: Tensor, inputs: ConditionalGenerationInputs) -> ConditionalGenerationInputs:
        """Builds the decoder's inputs from the labels; returns none if its text is given."""
        if inputs.get("decoder_input_ids") is not None or inputs.get("decoder_inputs_embeds") is not None:
            return {}
        mask, cache = inputs.get("decoder_attention_mask"), inputs.get("past_key_values")
        if mask is None:
            past = 0 if cache is None else cache.get_seq_length()  # a tuned prefix
            mask = F.pad(mask_until_last_label(labels), (past, 0), value=1)
        return {"decoder_input_ids": shift_labels_right(labels, self.config), "decoder_attention_mask": mask}

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Returns the labels shifted right, (batch, length): transformers' collators call this."""
        return shift_labels_right(labels, self.config)


@contextmanager
def use_assistant_context(assistant: Any, inputs: Mapping[str, Any]) -> Iterator[None]:
    """Encodes the inputs by the assistant model's own towers, and keeps the result as its context inside this block.

    Raises ValueError for an assistant with towers, but no inputs for them.
    """
    if not isinstance(assistant, PlaitForConditionalGeneration):
        yield
        return
    if not inputs:
        raise ValueError("assistant_model has towers of its own: pass their inputs instead of encoder_outputs")
    with torch.no_grad():
        assistant.assistant_context = assistant.model.encode_context(**inputs)
    try:
        yield
    finally:
        assistant.assistant_context = None


def prepend_start_token(tokens: Tensor, mask: Tensor | None, start: int | list[int] | None) -> dict[str, Tensor]:
    """Puts the start token (one for all rows, or one for each) before every row that lacks it, and returns the
    decoder's inputs; tokens: (batch, length), a text to continue, padded on the left where the mask is 0.

    Raises ValueError without a start token.
    """
    if start is None:
        raise ValueError(
            "decoder_start_token_id is None: set it to the id of the token that begins a text of the decoder"
        )
    mask = torch.ones_like(tokens) if mask is None else mask
    first = tokens.gather(1, mask.argmax(dim=1, keepdim=True))
    starts = tokens.new_tensor(start).view(-1, 1)
    lacking = (first != starts) & mask.any(dim=1, keepdim=True)
    if bool(lacking.any()):
        tokens = torch.cat((starts.expand(len(tokens), 1), tokens), dim=1)
        mask = torch.cat((lacking.to(mask.dtype), mask), dim=1)
    return {"decoder_input_ids": tokens, "decoder_attention_mask": mask}


def build_seq2seq_output(loss: Tensor | None, logits: Tensor | None, outputs: PlaitModelOutput) -> PlaitSeq2SeqLMOutput:
    """Builds the output of `forward`, with the names that transformers gives encoder and decoder."""
    context: Any = outputs.context
    return PlaitSeq2SeqLMOutput(
        loss=loss,
        logits=logits,
        past_key_values=outputs.past_key_values,
        decoder_hidden_states=outputs.hidden_states,
        decoder_attentions=outputs.attentions,
        cross_attentions=outputs.cross_attentions,
        encoder_last_hidden_state=context.last_hidden_state,
        encoder_hidden_states=context.hidden_states,
        encoder_attentions=context.attentions,
        encoder_cross_attentions=context.cross_attentions,
    )
