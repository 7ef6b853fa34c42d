"""Parameters of ours that a family's format has no place for, since they are zero."""

from collections.abc import Iterable
from typing import Any

from ....configuration import PlaitDecoderConfig, PlaitTowerConfig
from .family import _compile_pattern

# Whisper and VideoMAE have no key bias; one would shift all scores of a query alike, so zero is exact
FAMILY_ZEROS = {
    "whisper": (
        "encoder.transformer.layers.{}.self_attn.k_proj.bias",
        "decoder.transformer.layers.{}.self_attn.k_proj.bias",
        "decoder.transformer.layers.{}.cross_attn.k_proj.bias",
    ),
    "videomae": ("transformer.layers.{}.self_attn.k_proj.bias",),
}
"""The names by family, `{}` for a number: of a component, or with its prefix in a format of two."""


def freeze_zeros(parts: Iterable[Any]) -> None:
    """Freezes the parameters that are zero in the parts' families and have no place in their formats: if trained, they
    could not be exported."""
    for part in parts:
        zeros = FAMILY_ZEROS.get(part.config.family or "", ()) if isinstance(part.config, PlaitTowerConfig) else ()
        prefix = "decoder." if isinstance(part.config, PlaitDecoderConfig) else "encoder."
        for name, parameter in part.named_parameters() if zeros else ():
            if any(_compile_pattern(template, False).fullmatch(prefix + name) for template in zeros):
                parameter.requires_grad_(False)
