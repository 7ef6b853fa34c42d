"""Models measured by what they write, batch by batch: strings and two numbers a row are all that is kept."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.losses.cross_entropy import IGNORED
from ...modeling.losses.language_model import shifted
from ...processing import PlaitProcessor
from .per_row import Rows, perplexity_rows, text_rows
from .text import TextMetrics, text_metrics

NEW_TOKENS = 64  # where nothing says how many


class Written(NamedTuple):
    """What is kept of a row: the text, what it should be, the summed loss of the right tokens and their number."""

    text: str
    references: list[str]
    loss: float
    tokens: int


class GenerationMetrics:
    """Metrics of generated text by name (see `text_metrics`), and the loss and perplexity of the right text.

    For PlaitTrainer's `compute_metrics`: the model generates as its `generation_config` says.

    Raises:
        ValueError: an unknown name, with the nearest.
        ImportError: a metric whose package is missing.
    """

    def __init__(self, names: Sequence[str], processor: PlaitProcessor) -> None:
        self.chosen = [name for name in names if name != "perplexity"]  # which always comes along
        self.processor = processor
        self.start()

    @property
    def names(self) -> list[str]:
        """What the metrics are called in the results, beside the loss."""
        return [*self.chosen, "perplexity"]

    def start(self) -> None:
        """Forget everything."""
        self.metrics = text_metrics(self.chosen)
        self.losses: list[float] = []
        self.tokens: list[int] = []

    def records(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[Written]:
        """What is kept of a batch that the task's collator made for evaluation: `inputs` with labels, `references`,
        and the `prompt` to go on from where that is not the inputs without their labels."""
        inputs = batch["inputs"]
        losses, tokens = row_losses(model, inputs)
        texts, references = [""] * len(losses), [[""]] * len(losses)
        if self.chosen:
            prompt = batch.get("prompt") or {name: value for name, value in inputs.items() if name != "labels"}
            texts, references = written(model, prompt, self.processor), batch["references"]
        return [Written(*row) for row in zip(texts, references, losses.tolist(), tokens.tolist(), strict=True)]

    def add(self, records: Sequence[Written]) -> None:
        """One more batch, of all processes."""
        self.metrics.add([row.text for row in records], [row.references for row in records])
        self.losses += [row.loss for row in records]
        self.tokens += [row.tokens for row in records]

    def compute(self) -> dict[str, float]:
        """`{name: value}` over all rows so far."""
        loss = math.fsum(self.losses) / max(sum(self.tokens), 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **self.metrics.compute()}

    def rows(self) -> Rows:
        """What each row reached, in the order of adding."""
        return {**perplexity_rows(self.losses, self.tokens), **text_rows(self.metrics)}

    def predictions(self, records: Sequence[Written]) -> list[str]:
        """What the Trainer's `predict` returns."""
        return [row.text for row in records]


def row_losses(model: PlaitPreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(batch,) summed cross-entropy of each row's labels, and (batch,) their number; no smoothing."""
    logits = model(**inputs).logits
    labels = inputs["labels"] if model.config.is_encoder_decoder else shifted(inputs["labels"])
    known = labels != IGNORED  # of a conversation often the smaller part
    losses = torch.zeros(labels.shape, device=logits.device)
    losses[known] = F.cross_entropy(logits[known].float(), labels[known], reduction="none")
    return losses.sum(1), known.sum(1)


def written(
    model: PlaitPreTrainedModel, prompt: Mapping[str, Any], processor: PlaitProcessor, strip: bool = True
) -> list[str]:
    """What the model writes for each row, by its own generation config; `strip` spaces around it."""
    generating: Any = model
    check_room(model, prompt)
    with torch.no_grad():
        tokens = generating.generate(**prompt)
    if not model.config.is_encoder_decoder:
        tokens = tokens[:, prompt["input_ids"].shape[1] :]
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in texts] if strip else texts


def check_room(model: PlaitPreTrainedModel, prompt: Mapping[str, Any]) -> None:
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


def most_frequent(texts: Iterable[str]) -> str:
    """The text that occurs most often, the first of those that do."""
    return Counter(texts).most_common(1)[0][0]


def scored(names: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> TextMetrics:
    """Text metrics by name, with a baseline's texts in them."""
    metrics = text_metrics(names)
    metrics.add(predictions, references)
    return metrics
