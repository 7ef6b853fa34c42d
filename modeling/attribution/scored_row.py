"""One row whose inputs are replaced to see what its score becomes: the function that every method attributes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...configuration import DOCUMENT
from .target import Target, score

TOKEN_INPUTS = ("input_ids", f"{DOCUMENT}_input_ids")


class ScoredRow:
    """The score of one row as a function of the inputs that are explained. Tokens are replaced behind the layer that
    embeds them: their ids, and so positions, ends of texts and places of images, stay as they are.

    Args:
        model: in eval mode.
        inputs: the arguments of `forward` for one row, each (1, ...).
        target: of one row.
        names: the inputs that are explained: "input_ids", "document_input_ids", or float inputs.

    Raises ValueError for features that a tower has computed before (a frozen cache).

    Attributes:
        values: for each name its value, (1, ...) floats; of tokens their embeddings, (1, length, width).
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor], target: Target, names: Sequence[str]) -> None:
        if "encoder_outputs" in inputs:
            raise ValueError(
                "the inputs hold encoder_outputs, the features of a tower that was run before: no change of its input "
                "reaches the score: pass the inputs of the tower itself"
            )
        self.model, self.inputs, self.target, self.names = model, dict(inputs), target, tuple(names)
        self.embedders = {name: find_embedder(model, name) for name in names if name in TOKEN_INPUTS}
        self.values = tuple(self.embed(name, inputs[name]) for name in self.names)

    def embed(self, name: str, value: Tensor) -> Tensor:
        """Returns the embeddings of token ids, (rows, length, width); other inputs unchanged."""
        if name not in self.embedders:
            return value
        with torch.no_grad():
            return self.embedders[name](value)

    def __call__(self, *values: Tensor) -> Tensor:
        """Returns the scores, (copies,), of copies of the row with these values, (copies, ...) each."""
        copies = values[0].shape[0]
        inputs = {name: value.expand(copies, *value.shape[1:]) for name, value in self.inputs.items()}
        replaced = dict(zip(self.names, values, strict=True))
        inputs |= {name: value for name, value in replaced.items() if name not in self.embedders}
        with ExitStack() as stack:
            for embedder in dict.fromkeys(self.embedders.values()):
                own = [name for name, other in self.embedders.items() if other is embedder]
                stack.enter_context(replace_embeddings(embedder, [(inputs[name], replaced[name]) for name in own]))
            return score(self.model, inputs, self.target.select(torch.zeros(copies, dtype=torch.long)))


def find_embedder(model: Any, name: str) -> nn.Module:
    """Returns the layer that embeds the tokens of this input."""
    parts, side = model.parts, DOCUMENT if name.startswith(DOCUMENT) else "text"
    return parts[next(part for part in (side, "text", "decoder") if part in parts)].get_input_embeddings()


@contextmanager
def replace_embeddings(embedder: nn.Module, replaced: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Makes the layer return other embeddings for these ids inside this block: pairs of ids (rows, length) and
    embeddings (rows, length, width), each for one call with these ids.

    Raises RuntimeError at the end if the model did not embed one of them.
    """
    left = list(replaced)

    def replace(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        given = next((pair for pair in left if inputs and is_equal(inputs[0], pair[0])), None)
        if given is None:
            return output
        left.remove(given)
        return given[1].to(output.dtype)

    handle = embedder.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
    if left:
        raise RuntimeError(f"{type(embedder).__name__} was not called with the row's token ids: explain media alone")


def is_equal(ids: Any, expected: Tensor) -> bool:
    """Returns whether two tensors of token ids are equal."""
    return isinstance(ids, Tensor) and ids.shape == expected.shape and torch.equal(ids, expected)
