"""Relevance by attention: followed from the inputs of the towers through towers, connectors, fusion and decoder to the
tokens that the score is read from."""

from collections.abc import Sequence
from itertools import groupby, zip_longest
from typing import Any, cast

import torch
from torch import Tensor

from ..fusion.base import Fusion
from .fusion_layout import FusionLayout, find_layout
from .gradients import OCCLUDE
from .recording import Recording, compute_gradients, record_attention
from .relevance_rules import RelevanceRule
from .target import Target

OTHER_METHODS = 'choose method="integrated_gradients" or "occlusion"'


def compute_relevance(model: Any, inputs: dict[str, Tensor], target: Target, rule: RelevanceRule) -> dict[str, Tensor]:
    """Computes the relevance of the tokens that each tower makes of one row: (tokens,), by tower; of a text that the
    decoder alone reads, as "text". The score is read from the last tokens in proportion to the norm of its gradient:
    of a pooled first token, as in the papers, from that token alone.

    Raises ValueError without gradients, or for attention that is not among a part's tokens.
    """
    recording = record_attention(model, inputs, target)
    return RelevanceWalk(model, recording, rule).compute()


class RelevanceWalk:
    """Computes relevance from one recording by a rule."""

    def __init__(self, model: Any, found: Recording, rule: RelevanceRule) -> None:
        self.model, self.found, self.rule = model, found, rule
        self.gradients = compute_gradients(found)

    def compute(self) -> dict[str, Tensor]:
        """Returns the relevance of each tower's tokens, (tokens,)."""
        base = self.model.base_model
        if base.decoder is not None and not self.model.config.is_encoder_decoder:
            return self.follow_inline_text()
        if base.fusion is None:
            return self.follow_towers()
        if not base.fusion.keeps_tokens:
            read = dict(zip(self.found.streams, self.read_out(*self.found.streams.values()), strict=True))
            return {name: read[name] @ self.follow_stream(name, whole=True) for name in self.find_towers(read)}
        return self.follow_fusion(base.fusion)

    def find_towers(self, amounts: dict[str, Tensor]) -> list[str]:
        """Returns the towers of this row among modalities."""
        return [name for name in amounts if name in self.found.towers]

    def read_out(self, *tokens: Tensor) -> list[Tensor]:
        """Returns how much of the score is read from each token, (tokens,) for each tensor, (items, tokens, width): the
        norm of its gradient; all together sum to one. Raises ValueError if all are zero."""
        none = {id(one): torch.zeros_like(one) for one in tokens}
        norms = [(none | self.gradients)[id(one)].double().norm(dim=-1).flatten() for one in tokens]
        total = torch.stack([norm.sum() for norm in norms]).sum()
        if not bool(total > 0):
            raise ValueError(
                f"the score has no gradient by the last tokens, from which relevance is followed back: {OCCLUDE}"
            )
        return [norm / total for norm in norms]

    def average(self, weights: Tensor, item: int = 0) -> Tensor:
        """Returns the attention of one item without heads, (queries, keys), in float64."""
        gradient = self.gradients.get(id(weights), torch.zeros_like(weights))
        return self.rule.average_heads(weights[item].detach().double(), gradient[item].double())

    def follow_layers(self, attentions: Sequence[Tensor], count: int, name: str, item: int = 0) -> Tensor:
        """Returns the relevance matrix behind layers of self-attention among `count` tokens.

        Raises ValueError for attention that is not among all of them, as of a tower with windows.
        """
        matrix = torch.eye(count, dtype=torch.double, device=self.model.device)
        every = torch.arange(count, device=matrix.device)
        for weights in attentions:
            if weights.shape[-2:] != matrix.shape or item >= len(weights):
                raise ValueError(
                    f"the attention of the {name} is {tuple(weights.shape)}, not (items, heads, {count}, {count}) "
                    f"among all its tokens, which relevance needs: {OTHER_METHODS}"
                )
            matrix = self.rule.attend(matrix, every, every, self.average(weights, item))
        return matrix

    def follow_tower(self, name: str) -> Tensor:
        """Returns the relevance matrix of a tower, (tokens, tokens), those of all items of the row together."""
        output = self.found.towers[name]
        items, count = output.last_hidden_state.shape[:2]
        own = (output.attentions or (), count, f"{name} tower")
        return torch.block_diag(*(self.follow_layers(*own, item) for item in range(items)))

    def follow_stream(self, name: str, whole: bool = False) -> Tensor:
        """Returns the relevance of a connector's tokens, (tokens, tokens of the tower). If it resamples them: the
        identity (they are followed later), or with `whole` all the way to the tower's."""
        tower, length = self.follow_tower(name), self.found.streams[name].shape[1]
        weights = [pair for pair in self.found.weights if pair[0].startswith(f"connectors.{name}.")]
        if not weights:
            return tower
        return self.follow_connector(weights, length, len(tower)) @ tower if whole else torch.eye(length).to(tower)

    def follow_connector(self, weights: Sequence[tuple[str, Tensor]], length: int, tokens: int) -> Tensor:
        """Returns the relevance of the tower's tokens to learned queries: (queries, tokens). Keys are the tokens (and
        with a resampler the queries, behind them), or the queries alone."""
        matrix = torch.eye(tokens + length, dtype=torch.double, device=self.model.device)
        every = torch.arange(tokens + length, device=matrix.device)
        rows = every[tokens:]
        for path, own in weights:
            crossed = every[: own.shape[-1]]  # the tokens, and of a resampler the queries behind them
            columns = rows if path.endswith("self_attn") else crossed
            matrix[rows] = self.rule.attend(matrix, rows, columns, self.average(own))
        return matrix[rows][:, :tokens]

    def follow_towers(self) -> dict[str, Tensor]:
        """Returns the relevance of towers without a fusion: one, with a head or a decoder, or the sides of a pair."""
        names = list(self.found.towers)
        matrices = [self.follow_tower(name) for name in names]
        if self.found.decoder is not None:
            return {names[0]: self.follow_decoder(matrices[0])}
        read = self.read_out(*(self.found.towers[name].last_hidden_state for name in names))
        return {name: own @ matrix for name, own, matrix in zip(names, read, matrices, strict=True)}

    def follow_fusion(self, fusion: Fusion) -> dict[str, Tensor]:
        """Returns the relevance of towers whose tokens a fusion keeps."""
        streams = {name: self.follow_stream(name) for name in self.found.streams if name in self.found.towers}
        layout = find_layout(fusion, {name: len(block) for name, block in streams.items()}, self.model.device)
        matrix = torch.eye(layout.count, dtype=torch.double, device=self.model.device)
        for name, block in streams.items():
            matrix[layout.places[name][:, None], layout.places[name]] = block
        own = [(path, weights) for path, weights in self.found.weights if path.startswith("fusion.")]
        for _, layer in groupby(own, key=lambda pair: find_layer(pair[0])):
            matrix = self.follow_layer(matrix, list(layer), layout)
        fused = matrix[layout.fused]
        if self.found.decoder is not None:
            amounts = self.follow_decoder(fused)
        else:
            amounts = self.read_out(cast("Tensor", self.found.fused))[0] @ fused
        found = {name: amounts[layout.places[name]] for name in streams}
        return {name: self.finish_stream(name, own) for name, own in found.items()}

    def finish_stream(self, name: str, amounts: Tensor) -> Tensor:
        """Returns the amounts of a tower's tokens: those of its stream, or followed through a connector that resamples
        them."""
        resampled = any(path.startswith(f"connectors.{name}.") for path, _ in self.found.weights)
        return amounts @ self.follow_stream(name, whole=True) if resampled else amounts

    def follow_layer(self, matrix: Tensor, weights: Sequence[tuple[str, Tensor]], layout: FusionLayout) -> Tensor:
        """Returns the relevance matrix behind one layer of a fusion. All streams attend to the tokens of others as they
        were before the layer; shared tokens become the mean of what the streams make of them."""
        before, matrix, shared = matrix, matrix.clone(), []
        for path, own in weights:
            rows, columns, attention = layout.find_rows(path), layout.find_columns(path), self.average(own)
            if len(rows) == len(layout.learned) and len(rows):
                continue  # an absent stream
            if path.endswith("cross_attn"):
                source = before if len(layout.places) > 1 and not layout.query else matrix
                matrix[rows] = self.rule.cross(matrix, source, rows, columns, attention)
                continue
            bottleneck = len(layout.learned) > 0 and not layout.query
            updated = self.rule.attend(before if bottleneck else matrix, rows, columns, attention)
            matrix[rows] = updated
            shared += [updated[-len(layout.learned) :]] if bottleneck else []
        if shared:
            matrix[layout.learned] = torch.stack(shared).mean(dim=0)
        return matrix

    def follow_decoder(self, context: Tensor) -> Tensor:
        """Returns how much the score owes to each source of the context: (sources,); context: its relevance, (tokens,
        sources)."""
        (read,) = self.read_out(self.found.decoder.last_hidden_state)
        own, count = len(read), len(context)
        places = torch.arange(own + count, device=context.device)
        rows, columns = places[:own], places[own:]
        square = count == context.shape[1]
        start = context if square else torch.eye(count).to(context)
        matrix = torch.block_diag(torch.eye(own).to(context), start)
        output = self.found.decoder
        for weights, crossing in zip_longest(output.attentions or (), output.cross_attentions or ()):
            if weights is not None:
                matrix[rows] = self.rule.attend(matrix, rows, rows, self.average(weights))
            if crossing is not None:
                matrix[rows] = self.rule.cross(matrix, matrix, rows, columns, self.average(crossing))
        amounts = read @ matrix[rows][:, columns]
        return amounts if square else amounts @ context

    def follow_inline_text(self) -> dict[str, Tensor]:
        """Returns the relevance of the text of a decoder alone, and of the images whose tokens stand in it."""
        output = self.found.decoder
        (read,) = self.read_out(output.last_hidden_state)
        amounts = read @ self.follow_layers(output.attentions or (), len(read), "decoder")
        found = {"text": amounts}
        if "image" in self.found.streams:
            places = self.found.find_image_places(self.model.config)
            found["image"] = amounts[places] @ self.follow_stream("image", whole=True)
        return found


def find_layer(path: str) -> str:
    """Returns the layer that the path of an attention lies in: "fusion.layers.0.text.self_attn" -> "0"."""
    parts = path.split(".")
    return parts[parts.index("layers") + 1] if "layers" in parts else path
