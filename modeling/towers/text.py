"""Towers: one modality in, a stream of tokens out."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from ...configuration import (
    PlaitAudioConfig,
    PlaitCNNConfig,
    PlaitDecoderConfig,
    PlaitRNNConfig,
    PlaitSpectrogramConfig,
    PlaitTextConfig,
    PlaitTubeletConfig,
    PlaitVideoConfig,
    PlaitVisionConfig,
    PlaitWaveformConfig,
)
from ..core.pooling import finish, pooler_of
from ..core.transformer import PlaitTransformer
from ..outputs import LayerChoice, TowerOutput
from .audio import AudioTower
from .cnn import ConvolutionalTower
from .image import ImageTower
from .patches import TextEmbeddings
from .recurrent import RecurrentTower
from .video import TubeletTower, VideoTower

# where a text tower has its token embeddings
EMBEDDING = "embeddings.token_embedding.weight"


class TextTower(nn.Module):
    """Token ids to tokens: BERT-style encoders, GPT-style causal towers, and (with `config.cross_attention`) decoders
    that read a context."""

    keeps_cache = True

    def __init__(self, config: PlaitTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TextEmbeddings(config)
        self.transformer = PlaitTransformer(config, input_size=config.embedding_size)
        self.pooler = pooler_of(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | Mapping[str, Tensor] | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        blocks: Tensor | None = None,
        output_hidden_states: LayerChoice = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """input_ids: (batch, length); attention_mask: (batch, length with the cached tokens), 1 where there is a token,
        4-D, or by kind of layer; context: (batch, tokens, context_size) and context_mask: (batch, tokens); blocks:
        (batch, length), tokens of one number above -1 see each other."""
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        x = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past)
        given = (attention_mask, position_ids, past_key_values, context, context_mask)
        result = self.transformer(x, *given, output_hidden_states, output_attentions, blocks=blocks)
        return finish(result, token_mask(x, attention_mask), self.pooler, input_ids, past_key_values)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.token_embedding = value


def token_mask(x: Tensor, attention_mask: Tensor | Mapping[str, Tensor] | None) -> Tensor:
    """(batch, length) bool: which of the tokens are real, as far as a 2-D mask says."""
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        return attention_mask[:, -x.shape[1] :].bool()
    return x.new_ones(x.shape[:2], dtype=torch.bool)


TOWERS: dict[type[PreTrainedConfig], type[nn.Module]] = {
    PlaitTextConfig: TextTower,
    PlaitDecoderConfig: TextTower,
    PlaitVisionConfig: ImageTower,
    PlaitCNNConfig: ConvolutionalTower,
    PlaitAudioConfig: AudioTower,
    PlaitSpectrogramConfig: AudioTower,
    PlaitWaveformConfig: AudioTower,
    PlaitRNNConfig: RecurrentTower,
    PlaitVideoConfig: VideoTower,
    PlaitTubeletConfig: TubeletTower,
}
