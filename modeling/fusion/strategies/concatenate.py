"""Concatenation: no fusion of their tokens, side by side."""

from torch import nn

from ....configuration import PlaitFusionConfig
from ...core.layers import LearnedTokens
from ...outputs import LayerChoice
from ..base import Fusion, FusionOutput, Stream, add_modality_types, concatenate_streams


class ConcatenationFusion(Fusion):
    """All tokens in one sequence, told apart by a learned type, and nothing more: what reads it does the braiding (the
    encoder-decoder attention of a decoder over several sources: Libovický and Helcl 2018, "flat" strategy of
    https://arxiv.org/abs/1811.04719, section 3):

        z = [text + t_text; image + t_image; ...]

    There is no joint transformer, hence `num_hidden_layers` has no effect and there are no hidden states.
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.types = nn.ModuleDict({modality: LearnedTokens(1, config.hidden_size) for modality in self.modalities})

    def fuse(
        self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool
    ) -> FusionOutput:
        return FusionOutput(*concatenate_streams(add_modality_types(streams, self.types)))
