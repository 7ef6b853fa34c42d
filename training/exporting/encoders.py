"""The graphs of models that read a batch at once: classification, retrieval, masked language, questions, features."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...configuration.retrieval import DOCUMENT
from ..recipes.errors import RecipeError
from .graphs import Graph, build_graph
from .samples import Sample, SampleSize, make_encoder_sample, make_ids, make_tower_sample

# the names that optimum gives the graphs of the sides
SIDE_GRAPHS = {"text": "text_model", "image": "vision_model", "audio": "audio_model", "video": "video_model"}
SIDE_GRAPHS |= {DOCUMENT: "document_model"}


def build_head_graphs(model: Any, outputs: tuple[str, ...], of_tokens: bool = False) -> list[Graph]:
    """Builds the one graph of a model that returns these outputs; with `of_tokens`, one row of each for a token."""

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        found = model(**inputs)
        return [getattr(found, name) for name in outputs]

    padded = dict.fromkeys(outputs, ("attention_mask", 1)) if of_tokens else {}
    return [build_graph("model", model, outputs, partial(make_encoder_sample, model.config), compute, padded)]


def build_classification_graphs(model: Any) -> list[Graph]:
    """Builds the graph of a classifier or regressor: `logits`, (batch, labels)."""
    return build_head_graphs(model, ("logits",))


def build_masked_lm_graphs(model: Any) -> list[Graph]:
    """Builds the graph of a masked language model: `logits`, (batch, length, vocabulary)."""
    return build_head_graphs(model, ("logits",), of_tokens=True)


def build_question_graphs(model: Any) -> list[Graph]:
    """Builds the graph of a model that finds answers: `start_logits` and `end_logits`, (batch, length)."""
    return build_head_graphs(model, ("start_logits", "end_logits"), of_tokens=True)


def build_feature_graphs(model: Any) -> list[Graph]:
    """Builds the graph of a model without a head: `last_hidden_state`, (batch, tokens, width), 0 at padding, a `mask`,
    (batch, tokens), and `pooler_output`, (batch, width), if the model has one."""
    if model.config.inline:
        raise RecipeError(
            "images inside a text are exported with the head that reads it: save the model as PlaitForCausalLM"
        )
    with_decoder = model.config.is_encoder_decoder

    def make_sample(size: SampleSize, random: torch.Generator) -> Sample:
        inputs, axes = make_encoder_sample(model.config, size, random)
        if with_decoder:
            shape = (size.batch, size.length + 1)
            inputs["decoder_input_ids"] = make_ids(model.config.decoder_config, shape, random)
            axes["decoder_input_ids"] = {0: "batch", 1: "decoder_length"}
        return Sample(inputs, axes)

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        found = model(**inputs, **({} if model.decoder is None else {"use_cache": False}))
        mask = found.mask.long()
        pooled = [] if found.pooler_output is None else [found.pooler_output]
        return [found.last_hidden_state * mask[..., None], mask, *pooled]

    with torch.no_grad():
        pools = len(compute(make_sample(SampleSize(1, 3, 1), torch.Generator()).inputs)) == 3
    outputs = ("last_hidden_state", "mask", *(("pooler_output",) if pools else ()))
    return [build_graph("model", model, outputs, make_sample, compute)]


def build_retrieval_graphs(model: Any) -> list[Graph]:
    """Builds a graph for each side: its vectors, (batch, width), of unit length."""
    return [build_side_graph(model, side) for side in model.config.sides]


def build_side_graph(model: Any, side: str) -> Graph:
    """Builds the graph of one side, whose inputs are named as those of its modality."""

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        given: Mapping[str, Any] = inputs
        return [F.normalize(model.get_features(side, given).pooler_output, dim=-1)]

    make_sample = partial(make_tower_sample, model.config, side)
    return build_graph(SIDE_GRAPHS[side], model, (f"{side}_embeds",), make_sample, compute)
