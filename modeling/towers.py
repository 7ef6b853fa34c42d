"""Towers: one modality in, a stream of tokens out."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from ..configuration import PlaitCNNConfig, PlaitDecoderConfig, PlaitTextConfig, PlaitTowerConfig, PlaitVisionConfig
from .cnn import ConvolutionalTower
from .embeddings import ImageEmbeddings, TextEmbeddings
from .outputs import LayerChoice, TowerOutput
from .pooling import Pooler
from .transformer import PlaitTransformer, TransformerOutput


class TextTower(nn.Module):
    """Token ids to tokens: BERT-style encoders and GPT-style causal towers."""

    def __init__(self, config: PlaitTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TextEmbeddings(config)
        self.transformer = PlaitTransformer(config, input_size=config.embedding_size)
        self.pooler = pooler_of(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_hidden_states: LayerChoice = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """input_ids: (batch, length), attention_mask: (batch, length) or 4-D, 1 where there is a token."""
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        x = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past)
        result = self.transformer(
            x,
            attention_mask,
            position_ids,
            past_key_values,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        if attention_mask is not None and attention_mask.ndim == 2:
            mask = attention_mask[:, -x.shape[1] :].bool()
        else:
            mask = x.new_ones(x.shape[:2], dtype=torch.bool)
        return finish(result, mask, self.pooler, input_ids, past_key_values)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.token_embedding = value


class ImageTower(nn.Module):
    """Pictures to tokens: ViT and its kin."""

    def __init__(self, config: PlaitVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = ImageEmbeddings(config)
        self.transformer = PlaitTransformer(config)
        self.pooler = pooler_of(config)

    def forward(
        self, pixel_values: Tensor, output_hidden_states: LayerChoice = False, output_attentions: bool = False
    ) -> TowerOutput:
        """pixel_values: (images, channels, height, width)."""
        x = self.embeddings(pixel_values)
        result = self.transformer(x, output_hidden_states=output_hidden_states, output_attentions=output_attentions)
        return finish(result, x.new_ones(x.shape[:2], dtype=torch.bool), self.pooler)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.patch_embedding = value


def pooler_of(config: PlaitTowerConfig) -> Pooler | None:
    return None if config.pooling == "none" else Pooler(config)


def finish(
    result: TransformerOutput,
    mask: Tensor,
    pooler: Pooler | None,
    input_ids: Tensor | None = None,
    past_key_values: Cache | None = None,
) -> TowerOutput:
    """Pool the transformer's output and name its parts."""
    tokens = result.last_hidden_state
    pooled = None if pooler is None else pooler(tokens, mask, input_ids)
    return TowerOutput(tokens, mask.long(), pooled, result.hidden_states, result.attentions, past_key_values)


TOWERS: dict[type[PreTrainedConfig], type[nn.Module]] = {
    PlaitTextConfig: TextTower,
    PlaitDecoderConfig: TextTower,
    PlaitVisionConfig: ImageTower,
    PlaitCNNConfig: ConvolutionalTower,
}
