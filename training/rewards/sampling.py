"""Texts drawn from a model for the rows of a batch, and the logits of their tokens with gradients; the towers run once
for all texts of a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.inputs import MODALITY_INPUTS
from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...modeling.outputs import ContextOutput
from ...modeling.tasks.causal_lm import repeat_rows
from ..metrics.generation import DEFAULT_NEW_TOKENS


@dataclass
class Policy:
    """A model that generates, at the inputs of a batch. prompt: the arguments of `generate`; encoded: the outputs of
    its towers for them, with gradients if they are trained; temperature: of its samples and their probabilities."""

    model: Any
    prompt: Mapping[str, Any]
    encoded: Any
    temperature: float = 1.0

    def draw(self, count: int) -> Tensor:
        """Draws `count` texts for each row: tokens (rows * count, length), those of a row one behind the other, -100
        behind the end."""
        return self.generate(**SAMPLING, temperature=float(self.temperature), num_return_sequences=count)

    def decode_greedily(self) -> Tensor:
        """Returns the greedy text of each row, as `draw` does."""
        return self.generate()

    def search_beams(self, count: int) -> Tensor:
        """Returns the `count` likeliest texts of a beam search for each row, as `draw` does."""
        return self.generate(num_beams=count, num_return_sequences=count, length_penalty=0.0)

    def generate(self, **options: Any) -> Tensor:
        """Generates with these options and without any other processing of the probabilities."""
        own = self.model.generation_config
        fixed = {name: getattr(own, name, None) for name in TOKEN_SETTINGS}
        length = {"max_new_tokens": own.max_new_tokens or DEFAULT_NEW_TOKENS}
        config = GenerationConfig(**fixed, **length, **{**NEUTRAL, **options})
        with torch.no_grad():
            tokens = self.model.generate(**self.read_encoded(detach=True), generation_config=config)
        begun = 1 if self.model.config.is_encoder_decoder else self.prompt["input_ids"].shape[1]
        return hide_behind_end(tokens[:, begun:], config.eos_token_id)

    def read_encoded(self, detach: bool = False, count: int = 1) -> dict[str, Any]:
        """Returns the arguments of the model with encoded towers in place of their inputs, each row `count` times."""
        encoded = self.encoded
        text = {}
        if self.model.config.is_encoder_decoder:
            encoded = repeat_context(encoded, count, detach)
        else:
            encoded = {name: repeat_rows(detach_output(each, detach), count) for name, each in encoded.items()}
            names = ("input_ids", "attention_mask")
            text = {name: self.prompt[name].repeat_interleave(count, dim=0) for name in names}
        return {**text, **({"encoder_outputs": encoded} if encoded else {})}

    def compute_logits(self, labels: Tensor, model: Any = None) -> Tensor:
        """Computes the logits, (texts, length, vocabulary), from which each token of `draw`'s texts is drawn.

        model: the module to call, default: the model itself (or one that wraps it).
        """
        called: Any = self.model if model is None else model
        count = len(labels) // len(next(iter(find_tensors(self.encoded, self.prompt))))
        inputs = self.read_encoded(count=count)
        if self.model.config.is_encoder_decoder:
            logits = called(**inputs, **self.model.build_decoder_inputs(labels, {}), use_cache=False).logits
        else:
            ids = labels.masked_fill(labels == IGNORE_INDEX, 0)
            mask = (labels != IGNORE_INDEX).to(inputs["attention_mask"].dtype)
            inputs["input_ids"] = torch.cat((inputs["input_ids"], ids), dim=1)
            inputs["attention_mask"] = torch.cat((inputs["attention_mask"], mask), dim=1)
            kept = labels.shape[1] + 1
            logits = called(**inputs, use_cache=False, logits_to_keep=kept).logits[:, -kept:-1]
            if self.model.config.inline:  # which it never generates
                image = torch.arange(logits.shape[-1], device=logits.device) == self.model.config.image_token_id
                logits = logits.masked_fill(image, float("-inf"))
        return logits / self.temperature


# settings of a checkpoint's generation config that say which tokens begin and end a text
TOKEN_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
# nothing that changes probabilities: a text is drawn from the model's own distribution
NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "do_sample": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
SAMPLING: dict[str, Any] = {"do_sample": True, "top_k": 0, "top_p": 1.0, "typical_p": 1.0}


def encode_prompt(model: PlaitPreTrainedModel, prompt: Mapping[str, Any]) -> Any:
    """Runs the towers on the arguments of `generate`: the decoder's context of an encoder-decoder, the outputs of the
    towers beside the text for a decoder-only model (empty without images)."""
    inner: Any = model
    if model.config.is_encoder_decoder:
        return inner.model.encode_context(**prompt)
    given = prompt.get("encoder_outputs") or {}
    images = {name: prompt[name] for name in MODALITY_INPUTS["image"] if prompt.get(name) is not None}
    return dict(given) or ({"image": inner.model.encode("image", **images)} if images else {})


def repeat_context(context: ContextOutput, count: int, detach: bool = False) -> ContextOutput:
    """Repeats the rows of a decoder's context `count` times; copies of a row are adjacent."""
    hidden, mask = context.last_hidden_state, context.mask
    hidden = hidden.detach() if detach else hidden
    return ContextOutput(
        last_hidden_state=hidden.repeat_interleave(count, dim=0),
        mask=None if mask is None else mask.repeat_interleave(count, dim=0),
    )


def detach_output(output: Any, detach: bool) -> Any:
    """Returns a tower's output without its gradient, if asked for."""
    if not detach:
        return output
    return type(output)(**{name: each.detach() if isinstance(each, Tensor) else each for name, each in output.items()})


def find_tensors(encoded: Any, prompt: Mapping[str, Any]) -> list[Tensor]:
    """Returns tensors with a row for each row of the batch."""
    if isinstance(encoded, ContextOutput):
        return [encoded.last_hidden_state]
    return [prompt["input_ids"]]


def hide_behind_end(tokens: Tensor, end: int | list[int] | None) -> Tensor:
    """Puts -100 behind the first end token of each row of generated tokens, (texts, length)."""
    if end is None:
        return tokens
    ends = torch.isin(tokens, torch.tensor(end, device=tokens.device))
    ended = (ends.cumsum(dim=1) - ends.long()) > 0
    return tokens.masked_fill(ended, IGNORE_INDEX)
