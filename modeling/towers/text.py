"""The text tower, which is also the native decoder."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from ...configuration import PlaitTextConfig
from ..core.pooling import build_pooler, build_tower_output
from ..core.positions import count_positions, is_unbroken
from ..core.rows import check_ids
from ..core.sentence import build_sentence_pooler
from ..core.transformer import PlaitTransformer
from ..graphs import is_recording_graph
from ..outputs import LayerChoice, TowerOutput

# the path of a text tower's token embeddings among its parameters
TOKEN_EMBEDDING_WEIGHT = "embeddings.token_embedding.weight"


class TextTower(nn.Module):
    """The text tower: token ids to tokens. It covers BERT-style encoders, GPT-style causal towers and, with
    `config.cross_attention`, decoders that cross-attend to a context."""

    keeps_cache = True

    def __init__(self, config: PlaitTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TextEmbeddings(config)
        self.transformer = PlaitTransformer(config, input_size=config.embedding_size)
        self.pooler = build_pooler(config)
        self.sentence = build_sentence_pooler(config, config.hidden_size)

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
        """Encodes text.

        input_ids: (batch, length); attention_mask: (batch, cached + new tokens), 1 for real tokens, or a 4-D mask, or a
        dict of masks by type of layer; context: (batch, tokens, context_size); context_mask: (batch, tokens); blocks:
        (batch, length), tokens with the same number above -1 attend to each other in both directions; position_ids:
        (batch, length), counted over the mask's real tokens if None.
        """
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            position_ids = self.count_positions(input_ids, inputs_embeds, attention_mask, past)
        x = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past)
        given = (attention_mask, position_ids, past_key_values, context, context_mask)
        result = self.transformer(x, *given, output_hidden_states, output_attentions, blocks=blocks)
        pooler = self.pooler if self.sentence is None else self.sentence
        return build_tower_output(result, compute_token_mask(x, attention_mask), pooler, input_ids, past_key_values)

    def count_positions(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, attention_mask: Any, past: int
    ) -> Tensor | None:
        """Counts the positions over real tokens: see `plait.modeling.core.positions.count_positions`. None also if the
        tower sees only distances (rotary positions), and padding does not change those."""
        text, table = inputs_embeds if input_ids is None else input_ids, self.embeddings
        positions = None if text is None else count_positions(attention_mask, text.shape[1], past)
        if (
            text is None
            or positions is None
            or (table.position_embedding is None and self.sees_distances and is_unbroken(attention_mask))
        ):
            return None
        if table.position_embedding is not None and past + text.shape[1] > table.available:
            positions = positions.masked_fill(~attention_mask[:, past:].bool(), 0)  # padding alone exceeds the table
        return positions + table.position_offset if table.counted else positions  # such a table is indexed as it is

    @property
    def sees_distances(self) -> bool:
        """Whether attention depends on distances alone: no rotary scaling that changes with the largest position."""
        rotary = self.transformer.rotary
        return rotary is None or rotary.rope_type not in ("dynamic", "longrope")

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embedding."""
        return self.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embedding."""
        self.embeddings.token_embedding = value


def compute_token_mask(x: Tensor, attention_mask: Tensor | Mapping[str, Tensor] | None) -> Tensor:
    """Returns the real tokens of x as (batch, length) bool: those of a 2-D mask; all without one."""
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        return attention_mask[:, -x.shape[1] :].bool()
    return x.new_ones(x.shape[:2], dtype=torch.bool)


class TextEmbeddings(nn.Module):
    """The sum of token, position and segment embeddings, the latter two only if the config has them."""

    token_embedding: nn.Module

    def __init__(self, config: PlaitTextConfig) -> None:
        super().__init__()
        self.position_offset, self.counted = config.position_offset, config.position_type == "counted"
        self.scale = config.embedding_scale
        self.pad_token_id = config.pad_token_id
        width = config.embedding_size
        self.token_embedding = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        placed = config.position_type != "none"
        self.position_embedding = nn.Embedding(config.max_position_embeddings, width) if placed else None
        self.available = config.max_position_embeddings - config.position_offset
        self.type_embedding = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past: int | Tensor = 0,
    ) -> Tensor:
        """Embeds input_ids (batch, length) or inputs_embeds (batch, length, width) as (batch, length, width).

        `past` is the number of tokens in the KV cache. Raises ValueError for more tokens than positions and, on a CPU,
        for an id outside its table.
        """
        if is_recording_graph():
            return self.embed(input_ids, token_type_ids, position_ids, inputs_embeds, past)
        try:
            return self.embed(input_ids, token_type_ids, position_ids, inputs_embeds, past)
        except IndexError:
            check_ids(input_ids, self.token_embedding.get_parameter("weight").shape[0], "tokens")
            if self.type_embedding is not None:
                check_ids(token_type_ids, self.type_embedding.num_embeddings, "segments")
            check_ids(position_ids, self.available, "positions")
            raise

    def embed(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        past: int | Tensor,
    ) -> Tensor:
        """Embeds tokens as `forward`, whose arguments it takes; raises IndexError for an id outside its table."""
        x = self.token_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if self.scale != 1:
            x = x * self.scale
        if self.type_embedding is not None:
            x = x + self.type_embedding(
                x.new_zeros(x.shape[:2], dtype=torch.long) if token_type_ids is None else token_type_ids
            )
        if self.position_embedding is not None:
            if position_ids is None:
                position_ids = self.compute_positions(x, input_ids, past)
            else:
                self.check(position_ids, past + x.shape[1])
                if self.position_offset and not self.counted:
                    position_ids = position_ids + self.position_offset
            x = x + self.position_embedding(position_ids)
        return x

    def compute_positions(self, x: Tensor, input_ids: Tensor | None, past: int | Tensor) -> Tensor:
        """Returns position ids (1 or batch, length): the index in the row, or counted over real tokens only (RoBERTa,
        where padding has the position `pad_token_id`)."""
        length, pad = x.shape[1] + past, self.pad_token_id
        known = not isinstance(length, Tensor) or not is_recording_graph()  # that of a static cache is no number
        if known and length > self.available:
            raise self.build_length_error(int(length))
        if self.counted and input_ids is not None and pad is not None:
            real = input_ids.ne(pad).long()
            return (real.cumsum(1) + past) * real + pad
        return torch.arange(x.shape[1], device=x.device)[None] + (past + self.position_offset)

    def check(self, position_ids: Tensor, length: int | Tensor) -> None:
        """Raises ValueError for a position beyond the table. The values are read (a GPU synchronisation) only if the
        length exceeds the table, which padding alone may explain."""
        if is_recording_graph() or length <= self.available:
            return
        last = int(position_ids.max()) - (self.position_offset if self.counted else 0)
        if last >= self.available:
            raise self.build_length_error(last + 1)

    def build_length_error(self, length: int) -> ValueError:
        """Builds the error for a text of `length` tokens."""
        remedy = "truncate the text, or generate fewer tokens (max_new_tokens)"
        return ValueError(f"{length} tokens, but the text tower has {self.available} positions: {remedy}")
