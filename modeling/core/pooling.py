"""Poolers: they reduce a stream of tokens to one vector."""

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache

from ...configuration import PlaitConfig, PlaitRNNConfig, PlaitTowerConfig
from ...configuration.sentence import compute_sentence_widths, pools_sentences
from ..outputs import PlaitModelOutput, TowerOutput
from .attention import AttentionPlan, PlaitCrossAttention, find_attention_function
from .layers import LearnedTokens, PlaitMLP, build_norm
from .masks import build_cross_mask
from .transformer import TransformerOutput


def first_token(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Selects the first real token: (batch, width)."""
    return _take(x, mask.int().argmax(dim=1))


def last_token(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Selects the last real token: (batch, width)."""
    return _take(x, mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1))


def final_position(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Selects the last position, padding or not: (batch, width). (SigLIP pads every text to the same length.)"""
    return x[:, -1]


def mean_token(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Computes the mean over real tokens, (batch, width); zeros for a row without any."""
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


def mean_of_rest(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Computes the mean over all tokens but the class token, (batch, width) (CLIP's classifier)."""
    return mean_token(x[:, 1:], mask[:, 1:])


def first_and_mean(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Concatenates the class token and the mean of the others: (batch, 2 * width) (DINOv2's classifiers)."""
    return torch.cat((x[:, 0], mean_of_rest(x, mask)), dim=-1)


def mean_of_two(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Computes the mean of the first two tokens, (batch, width) (AST's class and distillation tokens)."""
    return x[:, :2].mean(dim=1)


def max_token(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Computes the largest value of each channel over real tokens: (batch, width)."""
    return x.masked_fill(~mask.bool().unsqueeze(-1), float("-inf")).max(dim=1).values


def mean_sqrt_len(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Computes the sum over real tokens, divided by the square root of their number: (batch, width)."""
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1).sqrt()


def weighted_mean(x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
    """Computes the mean over real tokens, each weighted by its place from 1, (batch, width) (SGPT, Muennighoff
    2022)."""
    weight = (mask.int().cumsum(1) * mask).unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


POOLINGS = {
    "first": first_token,
    "last": last_token,
    "final": final_position,
    "mean": mean_token,
    "mean_of_rest": mean_of_rest,
    "first_and_mean": first_and_mean,
    "mean_of_two": mean_of_two,
    "max": max_token,
    "mean_sqrt_len": mean_sqrt_len,
    "weighted_mean": weighted_mean,
}


def _take(x: Tensor, positions: Tensor) -> Tensor:
    return x[torch.arange(x.shape[0], device=x.device), positions]


class EndTokenPooling(nn.Module):
    """Selects the end-of-text token (CLIP): the first `eos_token_id` (or the first real token without one), or the
    largest token id for old CLIP configs, whose `eos_token_id` is wrongly 2; in each case of the real tokens, because
    CLIP's padding is the same token."""

    def __init__(self, config: PlaitTowerConfig) -> None:
        super().__init__()
        self.eos_token_id = config.eos_token_id

    def forward(self, x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Maps x: (batch, length, width) to (batch, width). Raises ValueError without `input_ids`, (batch, length)."""
        if input_ids is None:
            raise ValueError("pooling at the end-of-text token needs input_ids: pass them instead of inputs_embeds")
        ends = input_ids if self.eos_token_id == 2 else (input_ids == self.eos_token_id).int()
        return _take(x, ends.masked_fill(~mask, -1).argmax(dim=-1))


class AttentionPooling(nn.Module):
    """A learned query that attends to the tokens, and an MLP (SigLIP, Zhai et al. 2023; Lee et al. 2019, equation
    11)."""

    def __init__(self, config: PlaitTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.query = LearnedTokens(1, config.hidden_size)
        self.attention = PlaitCrossAttention(config)
        self.norm = build_norm(config)
        self.mlp = PlaitMLP(config)

    def forward(self, x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Maps x: (batch, length, width), mask: (batch, length) to (batch, width)."""
        query = self.query(x.shape[0])
        attend = find_attention_function(self.config._attn_implementation)
        pooled, _ = self.attention(
            query, AttentionPlan(attend, build_cross_mask(self.config, query, x, mask)), context=x
        )
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


class Pooler(nn.Module):
    """Selects or computes one vector, then applies the norm, dense layer and activation that the config has."""

    def __init__(self, config: PlaitTowerConfig) -> None:
        super().__init__()
        modules = {"eos": EndTokenPooling, "attention": AttentionPooling}
        self.pick = modules[config.pooling](config) if config.pooling in modules else POOLINGS[config.pooling]
        self.norm = build_norm(config, eps=config.pooler_norm_eps) if config.pooler_norm else nn.Identity()
        size = config.pooler_size
        self.dense = nn.Linear(config.hidden_size, size, bias=config.pooler_bias) if size else nn.Identity()
        self.act = ACT2FN[config.pooler_act] if config.pooler_act else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Maps x: (batch, length, width), mask: (batch, length) to (batch, pooled width)."""
        return self.act(self.dense(self.norm(self.pick(x, mask, input_ids))))


def compute_pooled_width(config: PlaitTowerConfig) -> int:
    """Computes the width of the pooler's output."""
    return config.pooler_size or config.hidden_size * (2 if config.pooling == "first_and_mean" else 1)


def compute_vector_width(config: PlaitConfig) -> int:
    """Computes the width of the vector that `pool_output` gives."""
    single = config.single
    if single is not None and pools_sentences(single):
        return compute_sentence_widths(single, config.hidden_size)[-1]
    if isinstance(single, PlaitRNNConfig):
        return single.pooler_size or single.hidden_size
    return compute_pooled_width(single) if isinstance(single, PlaitTowerConfig) else config.hidden_size


def pool_output(output: PlaitModelOutput | TowerOutput) -> Tensor:
    """Returns one vector per row, (batch, width): the pooled output, or the mean over tokens without a pooler."""
    if output.pooler_output is not None:
        return output.pooler_output
    return mean_token(output.last_hidden_state, output.mask)


def build_pooler(config: PlaitTowerConfig) -> Pooler | None:
    """Builds the tower's pooler; None if its pooling is "none"."""
    return None if config.pooling == "none" else Pooler(config)


def build_tower_output(
    result: TransformerOutput,
    mask: Tensor,
    pooler: nn.Module | None,
    input_ids: Tensor | None = None,
    past_key_values: Cache | None = None,
) -> TowerOutput:
    """Pools the transformer's output and builds the tower's output from it.

    mask: (batch, length), True for a token; input_ids: (batch, length), which `EndTokenPooling` needs.
    """
    tokens = result.last_hidden_state
    pooled = None if pooler is None else pooler(tokens, mask, input_ids)
    return TowerOutput(
        last_hidden_state=tokens,
        mask=mask.long(),
        pooler_output=pooled,
        hidden_states=result.hidden_states,
        attentions=result.attentions,
        cross_attentions=result.cross_attentions,
        past_key_values=past_key_values,
    )
