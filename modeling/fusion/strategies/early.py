"""Early fusion: one sequence, one transformer."""

from torch import nn

from ....configuration import PlaitFusionConfig
from ...core.layers import LearnedTokens
from ...core.transformer import PlaitTransformer
from ...outputs import LayerChoice
from ..base import Fusion, FusionOutput, Stream, add_modality_types, compute_token_positions, concatenate_streams


class EarlyFusion(Fusion):
    """Early fusion: all tokens in one sequence, with a learned type for each modality; every token attends to every
    other from the first layer on (single-stream: VisualBERT, Li et al. 2019, https://arxiv.org/abs/1908.03557; ViLT,
    Kim et al. 2021, https://arxiv.org/abs/2102.03334):

        z_0 = [text + t_text; image + t_image; ...],  z = Transformer(z_0)
    """

    def __init__(self, config: PlaitFusionConfig, modalities: tuple[str, ...]) -> None:
        super().__init__(config, modalities)
        self.types = nn.ModuleDict({modality: LearnedTokens(1, config.hidden_size) for modality in self.modalities})
        self.transformer = PlaitTransformer(config)

    def fuse(
        self, streams: dict[str, Stream], output_hidden_states: LayerChoice, output_attentions: bool
    ) -> FusionOutput:
        """Concatenates the streams, and runs the transformer on the sequence."""
        x, mask = concatenate_streams(add_modality_types(streams, self.types))
        joint = self.transformer(
            x,
            mask,
            compute_token_positions(mask),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return FusionOutput(
            joint.last_hidden_state, mask, hidden_states=joint.hidden_states, attentions=joint.attentions
        )
