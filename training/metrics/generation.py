"""Metrics of generating models, batch by batch: only the generated text and two numbers are kept of a row."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...processing import PlaitProcessor
from .per_row import RowScores, build_perplexity_scores, collect_text_scores
from .text import TextMetrics

DEFAULT_NEW_TOKENS = 64  # max_new_tokens of a generation config that does not set it


class GeneratedRow(NamedTuple):
    """The record of a row: the generated text, its references, the summed loss of the target tokens, their number."""

    text: str
    references: list[str]
    loss: float
    tokens: int


class GenerationMetrics:
    """Metrics of generated text by name (see `TextMetrics`), and the loss and perplexity of the target text.

    For PlaitTrainer's `compute_metrics`: the model generates with its `generation_config`.

    Raises:
        ValueError: an unknown name, with the nearest.
        ImportError: the package of a metric is missing.
    """

    def __init__(self, names: Sequence[str], processor: PlaitProcessor) -> None:
        self.metric_names = [name for name in names if name != "perplexity"]  # perplexity is always computed
        self.processor = processor
        self.metrics = TextMetrics(self.metric_names)
        self.reset()

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return [*self.metric_names, "perplexity"]

    def reset(self) -> None:
        """Forgets all rows."""
        self.metrics.reset()
        self.losses: list[float] = []
        self.tokens: list[int] = []

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[GeneratedRow]:
        """Returns the records of an evaluation batch: the model's `inputs` with labels, `references`, and optionally
        `prompt`, the inputs to generate from (default: `inputs` without the labels)."""
        inputs = batch["inputs"]
        losses, tokens = compute_row_losses(model, inputs)
        texts, references = [""] * len(losses), [[""]] * len(losses)
        if self.metric_names:
            prompt = batch.get("prompt") or {name: value for name, value in inputs.items() if name != "labels"}
            texts, references = generate_texts(model, prompt, self.processor), batch["references"]
        return [GeneratedRow(*row) for row in zip(texts, references, losses.tolist(), tokens.tolist(), strict=True)]

    def update(self, records: Sequence[GeneratedRow]) -> None:
        """Adds the records of a batch, gathered over all processes."""
        self.metrics.update([row.text for row in records], [row.references for row in records])
        self.losses += [row.loss for row in records]
        self.tokens += [row.tokens for row in records]

    def compute(self) -> dict[str, float]:
        """Returns `{name: value}` over all rows since `reset`."""
        loss = math.fsum(self.losses) / max(sum(self.tokens), 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **self.metrics.compute()}

    def compute_per_row(self) -> RowScores:
        """Returns the per-row scores by metric, in the order of adding."""
        return {**build_perplexity_scores(self.losses, self.tokens), **collect_text_scores(self.metrics)}

    def select_predictions(self, records: Sequence[GeneratedRow]) -> list[str]:
        """Returns the generated texts, for the Trainer's `predict`."""
        return [row.text for row in records]


def compute_row_losses(model: PlaitPreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns the summed cross-entropy of each row's labels, (batch,), without label smoothing, and the number of
    labels, (batch,)."""
    logits = model(**inputs).logits
    labels: Any = model.select_targets(inputs)
    known = labels != IGNORE_INDEX  # often few of a conversation's tokens, so only theirs are computed
    losses = torch.zeros(labels.shape, device=logits.device)
    losses[known] = F.cross_entropy(logits[known].float(), labels[known], reduction="none")
    return losses.sum(1), known.sum(1)


def generate_texts(
    model: PlaitPreTrainedModel, prompt: Mapping[str, Any], processor: PlaitProcessor, strip: bool = True
) -> list[str]:
    """Generates a text for each row of a prompt with the model's generation config; `strip` removes spaces around it.

    Raises ValueError for a prompt that is too long (see `check_prompt_length`).
    """
    generating: Any = model
    check_prompt_length(model, prompt)
    with torch.no_grad():
        tokens = generating.generate(**prompt)
    length = 0 if model.config.is_encoder_decoder else prompt["input_ids"].shape[1]
    if strip or not length:
        texts = processor.batch_decode(tokens[:, length:], skip_special_tokens=True)
        return [text.strip() for text in texts] if strip else texts
    return decode_continuations(processor, tokens, length)


def decode_continuations(processor: PlaitProcessor, tokens: Tensor, length: int) -> list[str]:
    """Decodes what follows the first `length` tokens of each row, cut from the decoded whole: alone, its first word
    would lose the space before it with many tokenizers (of whole words, WordPiece, SentencePiece)."""
    begun, whole, new = (
        processor.batch_decode(part, skip_special_tokens=True)
        for part in (tokens[:, :length], tokens, tokens[:, length:])
    )
    return [
        text.removeprefix(start) if text.startswith(start) else alone
        for text, start, alone in zip(whole, begun, new, strict=True)
    ]


def check_prompt_length(model: PlaitPreTrainedModel, prompt: Mapping[str, Any]) -> None:
    """Raises ValueError if a decoder-only model has too few positions for the prompt and max_new_tokens more."""
    config, new = model.config.get_text_config(), getattr(model.generation_config, "max_new_tokens", None)
    if model.config.is_encoder_decoder or config.position_type == "none" or new is None:
        return
    length = int(prompt["attention_mask"].sum(1).max())
    if length + new > config.max_position_embeddings:
        raise ValueError(
            f"a prompt of {length} tokens and generation.max_new_tokens {new} are more than the decoder's "
            f"{config.max_position_embeddings} positions: shorten the prompt, or lower max_new_tokens"
        )


def find_most_frequent(texts: Iterable[str]) -> str:
    """Returns the most frequent text; of several, the one that occurs first."""
    return Counter(texts).most_common(1)[0][0]


def score_texts(names: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> TextMetrics:
    """Builds the named text metrics and adds the predictions of a baseline to them."""
    metrics = TextMetrics(names)
    metrics.update(predictions, references)
    return metrics
