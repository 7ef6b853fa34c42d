"""The constants of `predict.py`: what a script must know of a model and its processor."""

from functools import partial
from typing import Any

import torch

from ...configuration import PlaitConfig
from ...configuration.modalities import MODALITY_TABLE
from ...modeling.generation.whisper_prompt import build_decoder_prompt
from ...processing import PlaitProcessor
from .decoders import find_cache_shape
from .encoders import SIDE_GRAPHS
from .samples import SampleSize, make_tower_sample


def find_script_parts(config: PlaitConfig, processor: PlaitProcessor) -> list[str] | None:
    """Returns the modalities that a script reads; None if it cannot read one of them, or lacks its part."""
    modalities = list(dict.fromkeys(config.sides.values()))
    if config.decoder_config is not None and not config.is_encoder_decoder:
        modalities = ["text", *modalities]
    for modality in modalities:
        if modality == "video" or processor.find_part(MODALITY_TABLE[modality].processor_part) is None:
            return None
    return modalities


def build_script_settings(model: Any, processor: PlaitProcessor) -> dict[str, Any]:
    """Returns the constants of a model's script."""
    config, parts = model.config, find_script_parts(model.config, processor) or []
    sides = {part: part for part in parts}
    name = type(model).__name__
    if name == "PlaitForRetrieval":
        sides = dict(config.sides)
    settings: dict[str, Any] = {"sides": sides, "graphs": {side: SIDE_GRAPHS[side] for side in sides}}
    settings |= build_reading_settings(config, processor)
    if name == "PlaitForClassification":
        settings |= {
            "labels": [config.id2label[n] for n in range(len(config.id2label))],
            "problem": config.problem_type,
        }
    settings["decoder_tokenizer"] = processor.find_part("decoder_tokenizer") is not None
    if name in ("PlaitForCausalLM", "PlaitForConditionalGeneration"):
        settings |= build_generation_settings(model)
    return settings


def build_reading_settings(config: PlaitConfig, processor: PlaitProcessor) -> dict[str, Any]:
    """Returns how texts, images and clips are read, by the parts that the processor has."""
    settings: dict[str, Any] = {}
    tokenizer = processor.find_part("tokenizer")
    if tokenizer is not None:
        padded = "attention_mask" not in tokenizer.model_input_names
        settings["padding"] = "max_length" if padded else "longest"
        settings["prompt"] = (processor.prompts or {}).get("default", "")
        settings["mask_token"] = tokenizer.mask_token_id
        settings["image_token"], settings["num_image_tokens"] = processor.image_token, processor.num_image_tokens
    for modality in set(config.sides.values()) - {"text"}:
        sample = make_tower_sample(config, modality, SampleSize(1, 1, 1), torch.Generator()).inputs
        name = next(iter(sample))
        if modality == "image":
            settings["image_shape"] = tuple(sample[name].shape[2:])
        if modality == "audio":
            settings |= {"audio_input": name, "audio_options": {}}
    return settings


def build_generation_settings(model: Any) -> dict[str, Any]:
    """Returns how a script generates greedily: tokens that begin and end a text, those that it never generates, the
    cache, and the number of new tokens."""
    options, config = model.generation_config, model.config
    context = config.is_encoder_decoder
    cache = find_cache_shape(model, ".decoder" if context else "")
    shapes = [shape for shape in cache.layers.values() for _ in range(2)]
    ends = options.eos_token_id if options.eos_token_id is not None else config.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    pad = options.pad_token_id if options.pad_token_id is not None else config.pad_token_id
    suppressed = list(options.suppress_tokens or [])
    return {
        "cache": dict(zip(cache.name("past_key_values"), shapes, strict=True)),
        "mask": "decoder_attention_mask" if context else "attention_mask",
        "start": find_start_tokens(model) if context else [],
        "ends": ends,
        "pad": pad if pad is not None else (ends or [0])[0],
        "suppressed": [*suppressed, config.image_token_id] if config.inline else suppressed,
        "suppressed_first": list(options.begin_suppress_tokens or []),
        "max_new_tokens": options.max_new_tokens or 20,
    }


def find_start_tokens(model: Any) -> list[int]:
    """Returns the tokens that begin the text of a decoder with a context: its start token, or a speech model's whole
    decoder prompt, in the language of its generation config."""
    find_option = partial(model.find_option, kwargs={})
    prompt = build_decoder_prompt(find_option, 1, lambda languages: [languages[0]])
    return prompt[0] if prompt is not None else [find_option("decoder_start_token_id")]
