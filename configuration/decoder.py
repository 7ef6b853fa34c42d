"""The config of a decoder: the fields of a text tower, with causal attention."""

from huggingface_hub.dataclasses import strict

from .tower import PlaitTextConfig


@strict
class PlaitDecoderConfig(PlaitTextConfig):
    """The config of a causal transformer over text; a causal language model (GPT-2, Llama, ...) read alone gets it."""

    model_type = "plait_decoder"
    base_config_key = "decoder_config"

    is_causal: bool = True
