"""Metrics of extractive question answering: the best answer span over all windows of a question."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...modeling.tasks.question_answering import span_loss
from ..data.question_windows import OUTSIDE_CONTEXT, WindowLimits
from .per_row import RowScores, collect_text_scores
from .text import TextMetrics


class Span(NamedTuple):
    """A candidate answer: the sum of its start and end logits, its text, and its first and past-last character in the
    context."""

    score: float
    text: str
    start: int
    end: int


class WindowRecord(NamedTuple):
    """The record of a window: its row, its best spans, the score of "no answer", the reference answers, its loss, and
    `known`, 1 if the window has a loss, else 0."""

    row: int
    spans: list[Span]
    no_answer_score: float
    references: list[str]
    loss: float
    known: int


def find_best_spans(
    start: Tensor, end: Tensor, places: Sequence[tuple[int, int]], context: str, limits: WindowLimits
) -> list[Span]:
    """Finds the likeliest spans of a window, at most `limits.n_best`, best first.

    start, end: (length,) logits; places: for each token its first and past-last character in the context.
    """
    inside = torch.tensor([tuple(place) != OUTSIDE_CONTEXT for place in places])  # a data set stores tuples as lists
    if not inside.any():
        return []
    length = len(places)
    scores = start[:length, None].float() + end[None, :length].float()
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    allowed = inside[:, None] & inside[None] & (distance >= 0) & (distance < limits.max_answer_length)
    scores = scores.masked_fill(~allowed, -math.inf).flatten()
    best = scores.topk(min(limits.n_best, int(allowed.sum())))
    spans = []
    for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        spans.append(build_span(score, context, places[place // length][0], places[place % length][1]))
    return spans


def build_span(score: float, context: str, first: int, last: int) -> Span:
    """Builds a span from its first and past-last character, without spaces around it (some tokenizers count the space
    before a word as part of it)."""
    text = context[first:last]
    first += len(text) - len(text.lstrip())
    return Span(score, text.strip(), first, first + len(text.strip()))


class SpanMetrics:
    """Exact match and word F1 of the answers, as SQuAD's evaluation counts them, and the loss; for PlaitTrainer.

    The windows of a question must come one after the other; only the best spans of each question are kept.
    """

    def __init__(self, names: Sequence[str], limits: WindowLimits) -> None:
        self.metric_names = list(names)
        self.limits = limits
        self.metrics = TextMetrics(self.metric_names)
        self.reset()

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return self.metric_names

    def reset(self) -> None:
        """Forgets all rows."""
        self.metrics.reset()
        self.loss, self.known = 0.0, 0
        self.pending: WindowRecord | None = None

    def measure_batch(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[WindowRecord]:
        """Returns the records of a batch: the model's `inputs`, and `windows` with the keys `row`, `places`, `context`
        and `references`."""
        inputs = batch["inputs"]
        positions = torch.stack((inputs["start_positions"], inputs["end_positions"]), dim=1)
        outputs = model(**{name: value for name, value in inputs.items() if not name.endswith("_positions")})
        logits = torch.stack((outputs.start_logits, outputs.end_logits), dim=-1)
        real = inputs["attention_mask"].bool()
        found = []
        for number, window in enumerate(batch["windows"]):
            one = slice(number, number + 1)
            loss = span_loss(logits[one], real[one], positions[one])
            known = int(positions[number, 0] != IGNORE_INDEX)
            start, end = logits[number].cpu().unbind(-1)
            spans = find_best_spans(start, end, window["places"], window["context"], self.limits)
            no_answer = float(start[0] + end[0])
            found.append(WindowRecord(window["row"], spans, no_answer, window["references"], float(loss), known))
        return found

    def update(self, records: Sequence[WindowRecord]) -> None:
        """Adds the records of a batch of windows, gathered over all processes."""
        for found in records:
            self.loss += found.loss
            self.known += found.known
            if self.pending is not None and self.pending.row != found.row:
                self.close_question()
            self.pending = found if self.pending is None else merge_windows(self.pending, found, self.limits)

    def close_question(self) -> None:
        """Answers the current question, which has no further windows, and adds it to the metrics."""
        if self.pending is not None:
            self.metrics.update([select_answer(self.pending, self.limits)], [self.pending.references or [""]])
            self.pending = None

    def compute(self) -> dict[str, float]:
        """Returns `{name: value}` over all questions since `reset`."""
        self.close_question()
        return {"loss": self.loss / max(self.known, 1), **self.metrics.compute()}

    def compute_per_row(self) -> RowScores:
        """Returns the scores of each question by metric, in the order of adding."""
        self.close_question()
        return collect_text_scores(self.metrics)

    def select_predictions(self, records: Sequence[WindowRecord]) -> list[WindowRecord]:
        """Returns the records with the candidates of every window, for the Trainer's `predict`."""
        return list(records)


def merge_windows(first: WindowRecord, second: WindowRecord, limits: WindowLimits) -> WindowRecord:
    """Merges two windows of a question: the best spans of both, and the lower of the two scores of "no answer"."""
    spans = sorted([*first.spans, *second.spans], key=lambda span: -span.score)[: limits.n_best]
    return first._replace(spans=spans, no_answer_score=min(first.no_answer_score, second.no_answer_score))


def select_answer(found: WindowRecord, limits: WindowLimits) -> str:
    """Returns the text of the best span, "" for "no answer"."""
    return "" if is_no_answer(found, limits) else found.spans[0].text


def is_no_answer(found: WindowRecord, limits: WindowLimits) -> bool:
    """Returns whether the answer is "no answer": without spans, or if its score exceeds that of the best span by more
    than the threshold `limits.no_answer`."""
    return not found.spans or (
        limits.no_answer is not None and found.no_answer_score - found.spans[0].score > limits.no_answer
    )
