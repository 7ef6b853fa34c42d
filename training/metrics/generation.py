"""Models measured by what they write, batch by batch: strings and two numbers a row are all that is kept."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.heads.language_model import shift_labels_left
from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...processing import PlaitProcessor
from .per_row import RowScores, build_perplexity_scores, collect_text_scores
from .text import TextMetrics

DEFAULT_NEW_TOKENS = 64  # where nothing says how many


class GeneratedRow(NamedTuple):
    """What is kept of a row: the text, what it should be, the summed loss of the right tokens and their number."""

    text: str
    references: list[str]
    loss: float
    tokens: int


class GenerationMetrics:
    """Metrics of generated text by name (see `TextMetrics`), and the loss and perplexity of the right text.

    For PlaitTrainer's `compute_metrics`: the model generates as its `generation_config` says.

    Raises:
        ValueError: an unknown name, with the nearest.
        ImportError: a metric whose package is missing.
    """

    def __init__(self, names: Sequence[str], processor: PlaitProcessor) -> None:
        self.metric_names = [name for name in names if name != "perplexity"]  # which always comes along
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
        """What is kept of a batch that the task's collator made for evaluation: `inputs` with labels, `references`,
        and the `prompt` to go on from where that is not the inputs without their labels."""
        inputs = batch["inputs"]
        losses, tokens = compute_row_losses(model, inputs)
        texts, references = [""] * len(losses), [[""]] * len(losses)
        if self.metric_names:
            prompt = batch.get("prompt") or {name: value for name, value in inputs.items() if name != "labels"}
            texts, references = generate_texts(model, prompt, self.processor), batch["references"]
        return [GeneratedRow(*row) for row in zip(texts, references, losses.tolist(), tokens.tolist(), strict=True)]

    def update(self, records: Sequence[GeneratedRow]) -> None:
        """One more batch, of all processes."""
        self.metrics.update([row.text for row in records], [row.references for row in records])
        self.losses += [row.loss for row in records]
        self.tokens += [row.tokens for row in records]

    def compute(self) -> dict[str, float]:
        """`{name: value}` over all rows so far."""
        loss = math.fsum(self.losses) / max(sum(self.tokens), 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **self.metrics.compute()}

    def compute_per_row(self) -> RowScores:
        """What each row reached, in the order of adding."""
        return {**build_perplexity_scores(self.losses, self.tokens), **collect_text_scores(self.metrics)}

    def select_predictions(self, records: Sequence[GeneratedRow]) -> list[str]:
        """What the Trainer's `predict` returns."""
        return [row.text for row in records]


def compute_row_losses(model: PlaitPreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(batch,) summed cross-entropy of each row's labels, and (batch,) their number; no smoothing."""
    logits = model(**inputs).logits
    labels = inputs["labels"] if model.config.is_encoder_decoder else shift_labels_left(inputs["labels"])
    known = labels != IGNORE_INDEX  # of a conversation often the smaller part
    losses = torch.zeros(labels.shape, device=logits.device)
    losses[known] = F.cross_entropy(logits[known].float(), labels[known], reduction="none")
    return losses.sum(1), known.sum(1)


def generate_texts(
    model: PlaitPreTrainedModel, prompt: Mapping[str, Any], processor: PlaitProcessor, strip: bool = True
) -> list[str]:
    """What the model writes for each row, by its own generation config; `strip` spaces around it."""
    generating: Any = model
    check_prompt_length(model, prompt)
    with torch.no_grad():
        tokens = generating.generate(**prompt)
    if not model.config.is_encoder_decoder:
        tokens = tokens[:, prompt["input_ids"].shape[1] :]
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in texts] if strip else texts


def check_prompt_length(model: PlaitPreTrainedModel, prompt: Mapping[str, Any]) -> None:
    """Raises ValueError where a decoder alone has no positions left to go on with all that it may write."""
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
    """The text that occurs most often, the first of those that do."""
    return Counter(texts).most_common(1)[0][0]


def score_texts(names: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> TextMetrics:
    """Text metrics by name, with a baseline's texts in them."""
    metrics = TextMetrics(names)
    metrics.update(predictions, references)
    return metrics
