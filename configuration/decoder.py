"""A decoder as data: the text tower's fields, causal."""

from huggingface_hub.dataclasses import strict

from .tower import PlaitTextConfig


@strict
class PlaitDecoderConfig(PlaitTextConfig):
    """A causal transformer over text; a causal checkpoint read alone (GPT-2, Llama, ...) becomes this."""

    model_type = "plait_decoder"
    base_config_key = "decoder_config"

    is_causal: bool = True
