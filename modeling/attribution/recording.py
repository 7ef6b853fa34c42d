"""Records the attention of one forward pass, with what lies between: the tokens of towers, connectors and fusion."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...configuration import DOCUMENT
from ..backbone.pretrained import require_grad
from ..core.attention import PlaitAttention
from .gradients import OCCLUDE
from .target import Target, score


@dataclass
class Recording:
    """One forward pass of one row.

    Attributes:
        inputs: of the row.
        score: (), of the target.
        towers: outputs by tower, with attentions; decoder: that of the decoder.
        streams: behind each connector, by modality: (1, tokens, width).
        weights: of the attention inside connectors and fusion, in the order of computation: the module's path and
            (1, heads, queries, keys).
        fused: the fused tokens, (1, tokens, width); None without a fusion.
    """

    inputs: Mapping[str, Tensor]
    score: Tensor | None = None
    towers: dict[str, Any] = field(default_factory=dict)
    decoder: Any = None
    streams: dict[str, Tensor] = field(default_factory=dict)
    weights: list[tuple[str, Tensor]] = field(default_factory=list)
    fused: Tensor | None = None

    def find_image_places(self, config: Any) -> Tensor:
        """Returns where the tokens of images stand in the text of a decoder alone: (places,)."""
        return (self.inputs["input_ids"][0] == config.image_token_id).nonzero()[:, 0]

    def list_tensors(self) -> list[Tensor]:
        """Returns every tensor whose gradient a method may need: attention, and tokens."""
        outputs = [*self.towers.values(), *([] if self.decoder is None else [self.decoder])]
        found = [output.last_hidden_state for output in outputs]
        for output in outputs:
            found += [
                weight for weight in (*(output.attentions or ()), *(output.cross_attentions or ())) if is_set(weight)
            ]
        found += [*self.streams.values(), *(weight for _, weight in self.weights)]
        return found + ([] if self.fused is None else [self.fused])


def is_set(weight: Tensor | None) -> bool:
    """Returns whether a layer computed attention of this kind."""
    return weight is not None


def record_attention(model: Any, inputs: Mapping[str, Tensor], target: Target) -> Recording:
    """Computes the score of one row with eager attention in every part, and records it.

    Raises ValueError if the score has no gradient.
    """
    found = Recording(inputs)
    with ExitStack() as stack:
        stack.enter_context(use_eager_connectors(model.config))
        for handle in hook_parts(model, found):
            stack.callback(handle.remove)
        found.score = score(model, {name: require_gradient(value) for name, value in inputs.items()}, target)[0]
    if not found.score.requires_grad:
        raise ValueError(f"the score has no gradient, by which relevance is read out: {OCCLUDE}")
    return found


def hook_parts(model: Any, found: Recording) -> Iterator[Any]:
    """Hooks into every part: embeddings of tokens require gradients, parts return their attention, outputs are kept."""
    base = model.base_model
    sides = model.config.sides
    for name, part in model.parts.items():
        if sides.get(name, "text") == "text":  # or the decoder
            yield part.get_input_embeddings().register_forward_hook(require_grad)
        yield part.register_forward_pre_hook(ask_for_attention, with_kwargs=True)
        yield part.register_forward_hook(keep_output(found, name))
    for name, connector in base.connectors.items():
        yield connector.register_forward_hook(keep_stream(found, name))
    if base.fusion is not None:
        yield base.fusion.register_forward_pre_hook(ask_for_attention, with_kwargs=True)
        yield base.fusion.register_forward_hook(keep_fused(found))
    for prefix, part in (("fusion", base.fusion), ("connectors", base.connectors)):
        for name, module in [] if part is None else part.named_modules():
            if isinstance(module, PlaitAttention):
                yield module.register_forward_hook(keep_weights(found, f"{prefix}.{name}"))


def require_gradient(value: Tensor) -> Tensor:
    """Returns an input of floats as one that requires a gradient, any other unchanged."""
    return value.detach().clone().requires_grad_() if value.is_floating_point() else value


def ask_for_attention(
    module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Asks a part for its attention, as a forward pre-hook."""
    return inputs, {**options, "output_attentions": True}


def keep_output(found: Recording, name: str) -> Callable[..., None]:
    """Returns a forward hook that keeps the output of a tower or the decoder."""

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if name == "decoder":
            found.decoder = output
        else:
            found.towers[DOCUMENT if name in found.towers else name] = output  # a shared tower reads documents last

    return keep


def keep_stream(found: Recording, name: str) -> Callable[..., None]:
    """Returns a forward hook that keeps the tokens behind a connector."""

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found.streams[name] = output.tokens

    return keep


def keep_fused(found: Recording) -> Callable[..., None]:
    """Returns a forward hook that keeps the fused tokens."""

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found.fused = output.tokens

    return keep


def keep_weights(found: Recording, path: str) -> Callable[..., None]:
    """Returns a forward hook that keeps the weights of one attention."""

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if output[1] is not None:
            found.weights.append((path, output[1]))

    return keep


@contextmanager
def use_eager_connectors(config: Any) -> Iterator[None]:
    """Uses eager attention in connectors inside this block; towers, fusion and decoder do so when they are asked for
    their attention."""
    fusion = config.fusion_config
    before = None if fusion is None else fusion._attn_implementation
    try:
        if fusion is not None:
            fusion._attn_implementation_internal = "eager"
        yield
    finally:
        if fusion is not None:
            fusion._attn_implementation_internal = before


def compute_gradients(found: Recording) -> dict[int, Tensor]:
    """Computes the gradient of the score by every recorded tensor, by its `id`; zeros where it does not count.

    Raises ValueError if there is none.
    """
    tensors = [tensor for tensor in found.list_tensors() if tensor.requires_grad]
    assert found.score is not None
    try:
        gradients = torch.autograd.grad(found.score, tensors, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(f"the score has no gradient by the attention ({error}): {OCCLUDE}") from error
    pairs = zip(tensors, gradients, strict=True)
    return {id(tensor): torch.zeros_like(tensor) if own is None else own for tensor, own in pairs}
