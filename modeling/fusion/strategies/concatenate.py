"""Concatenation: the tokens of all modalities in one sequence, without a joint transformer."""

from torch import nn

from ....configuration import PlaitFusionConfig
from ...core.layers import LearnedTokens
from ...outputs import LayerChoice
from ..base import Fusion, FusionOutput, Stream, add_modality_types, concatenate_streams


class ConcatenationFusion(Fusion):
    """Concatenation of all tokens, with a learned type for each modality: the decoder that cross-attends to them does
    the fusing (encoder-decoder attention over several sources: Libovický and Helcl 2018, the "flat" strategy of
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
        """Concatenates the streams."""
        return FusionOutput(*concatenate_streams(add_modality_types(streams, self.types)))
