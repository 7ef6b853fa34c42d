"""Compares what the exported graphs generate with what the model generates: the same tokens, greedily."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig

from ..recipes.errors import RunError
from .formats import Runner
from .graphs import Graph
from .samples import SampleSize, make_encoder_sample
from .settings import build_generation_settings
from .standalone import generate_from_context, generate_tokens, generate_with_images

NEW_TOKENS = 6
PROMPTS = SampleSize(3, 4, 1)
# options of generation by which the scores of greedy decoding would change; a script leaves them out
GREEDY_OPTIONS: dict[str, Any] = {
    "num_beams": 1,
    "do_sample": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
GREEDY_OPTIONS |= {"encoder_no_repeat_ngram_size": 0, "min_length": 0, "num_return_sequences": 1}


class Named(NamedTuple):
    """A graph's input or output, as ONNX Runtime names them."""

    name: str


class RunnerSession:
    """A graph in any format, called as a session of ONNX Runtime is."""

    def __init__(self, graph: Graph, run: Runner) -> None:
        self.graph, self.runner = graph, run

    def get_inputs(self) -> list[Named]:
        """Returns the names of the inputs."""
        return [Named(name) for name in self.graph.axes]

    def get_outputs(self) -> list[Named]:
        """Returns the names of the outputs."""
        return [Named(name) for name in self.graph.outputs]

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Returns the outputs of these names."""
        found = self.runner(feeds)
        return [found[name] for name in names]


def check_generation(model: Any, graphs: Sequence[Graph], runners: Mapping[str, Runner]) -> None:
    """Compares greedy decoding by the graphs, as `predict.py` does it, with the model's `generate` on made prompts.

    Raises RunError for other tokens.
    """
    sessions = {graph.name: RunnerSession(graph, runners[graph.name]) for graph in graphs}
    settings = {**build_generation_settings(model), "max_new_tokens": NEW_TOKENS}
    inputs = make_prompts(model)
    found = generate_by_graphs(sessions, {name: value.numpy() for name, value in inputs.items()}, settings)
    given = {"decoder_input_ids": torch.tensor([settings["start"]] * PROMPTS.batch)} if settings["start"] else {}
    options = GenerationConfig(**GREEDY_OPTIONS, max_new_tokens=NEW_TOKENS, max_length=None)
    written = model.generate(**inputs, **given, generation_config=options).numpy()
    expected = written[:, -found.shape[1] :]
    begun = len(settings["start"]) or inputs["input_ids"].shape[1]
    if written.shape[1] != begun + found.shape[1] or not np.array_equal(found, expected):
        raise RunError(
            f"the graphs generate {found.tolist()}, but the model generates {expected.tolist()}: nothing was written"
        )


def generate_by_graphs(sessions: Mapping[str, Any], feeds: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Returns the tokens, (rows, new tokens), that the graphs of a model generate."""
    if "encoder_model" in sessions:
        return generate_from_context(sessions["encoder_model"], sessions["decoder_model"], feeds, settings)
    if "vision_model" in sessions:
        return generate_with_images(sessions["vision_model"], sessions["decoder_model"], feeds, settings)
    return generate_tokens(sessions["model"], feeds["input_ids"], feeds["attention_mask"], {}, settings)


def make_prompts(model: Any) -> dict[str, torch.Tensor]:
    """Makes what a model generates from: the inputs of its towers, or prompts of unequal length, padded on the left,
    with the tokens of an image at the beginning of each if the model reads images inside its text."""
    config = model.config
    inputs = make_encoder_sample(config, PROMPTS, torch.Generator().manual_seed(4)).inputs
    if config.is_encoder_decoder:
        return inputs
    inputs = {name: value for name, value in inputs.items() if name != "token_type_ids"}
    order = inputs["attention_mask"].argsort(dim=1, stable=True)
    inputs |= {name: inputs[name].gather(1, order) for name in ("input_ids", "attention_mask")}
    if config.inline:
        inputs["input_ids"][inputs["input_ids"] == config.image_token_id] += -1
        image = torch.full((PROMPTS.batch, model.num_image_tokens * PROMPTS.items), config.image_token_id)
        inputs["input_ids"] = torch.cat((image, inputs["input_ids"]), dim=1)
        inputs["attention_mask"] = torch.cat((torch.ones_like(image), inputs["attention_mask"]), dim=1)
    return inputs
