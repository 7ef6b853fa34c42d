"""Questions and contexts as windows of tokens, and answers as the best spans of all windows of a question."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.losses.cross_entropy import IGNORED
from ...modeling.tasks.question_answering import span_loss
from ..data.inputs import token_rows
from ..data.media import Row
from ..recipes.schema import RecipeError
from .per_row import Rows, text_rows
from .text import text_metrics

NOWHERE = (0, 0)  # where in the context a token stands that is none of it


class Window(NamedTuple):
    """One piece of a question with its context: `row` it belongs to, token ids and segments, for each token where it
    stands in the context (first and past-last character, NOWHERE for others), and the tokens at which the answer
    begins and ends: the first one where there is none, -100 where it is not known or cut."""

    row: int
    input_ids: list[int]
    token_type_ids: list[int]
    places: list[tuple[int, int]]
    start: int
    end: int


class Span(NamedTuple):
    """A candidate: the sum of its two scores, its text, and where it stands in the context."""

    score: float
    text: str
    start: int
    end: int


class Found(NamedTuple):
    """What is kept of a window: its row, its best spans, the score of "no answer", the right answers, its loss, and
    whether it has one."""

    row: int
    spans: list[Span]
    nothing: float
    references: list[str]
    loss: float
    known: int


class Limits(NamedTuple):
    """max_length: tokens a window; stride: context tokens that neighbouring windows share; n_best: spans kept of a
    question; max_answer_length: tokens; no_answer: by how much "no answer" must score above the best span to be given
    (None: some span is always given)."""

    max_length: int
    stride: int
    n_best: int
    max_answer_length: int
    no_answer: float | None


def windows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], limits: Limits) -> Iterator[Window]:
    """The windows of every row, in order.

    Raises RecipeError for a question that leaves no room for a context.
    """
    for number, row in enumerate(rows):
        room = limits.max_length - len(tokenizer(row["question"], "")["input_ids"])
        if room <= limits.stride:
            raise RecipeError(
                f"the question of row {number} leaves {room} of {limits.max_length} tokens for its context, and windows"
                f" share {limits.stride} (settings.doc_stride): raise max_length, lower doc_stride, or shorten it"
            )
        encoded: Any = tokenizer(
            row["question"],
            row["context"],
            truncation="only_second",
            max_length=limits.max_length,
            stride=limits.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        for piece, ids in enumerate(encoded["input_ids"]):
            inside = encoded.sequence_ids(piece)
            offsets = encoded["offset_mapping"][piece]
            places: list[tuple[int, int]] = [
                place if part == 1 else NOWHERE for place, part in zip(offsets, inside, strict=True)
            ]
            ends = answer_tokens(places, row.get("answers"))
            yield Window(number, ids, encoded["token_type_ids"][piece], places, *ends)


def answer_tokens(places: Sequence[tuple[int, int]], answers: Mapping[str, Any] | None) -> tuple[int, int]:
    """The first and last token of the (first) answer in a window: (0, 0) where it holds none of it."""
    if answers is None:
        return IGNORED, IGNORED
    if not answers["text"]:
        return 0, 0
    first = answers["answer_start"][0]
    past = first + len(answers["text"][0])
    inside = [token for token, (start, end) in enumerate(places) if start < past and end > first]
    if not inside:
        return 0, 0
    whole = places[inside[0]][0] <= first and places[inside[-1]][1] >= past
    return (inside[0], inside[-1]) if whole else (IGNORED, IGNORED)


def with_answers(row: Row) -> dict[str, Any]:
    """A row whose answers are in SQuAD's form, {text: [...], answer_start: [...]}: they may also be a list of {text,
    answer_start}, or texts beside a column answer_start."""
    answers = row["answers"]
    if isinstance(answers, Mapping):
        found = {"text": list(answers["text"]), "answer_start": list(answers["answer_start"])}
    elif not isinstance(answers, str) and all(isinstance(answer, Mapping) for answer in answers):
        found = {name: [answer[name] for answer in answers] for name in ("text", "answer_start")}
    else:
        found = {"text": listed(answers), "answer_start": listed(row["answer_start"])}
    return {**row, "answers": found}


def listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, (str, int)) else list(value)


def check_answers(rows: Iterable[Row], split: str) -> None:
    """Raises RecipeError for an answer that does not stand in its context."""
    for number, row in enumerate(rows):
        answers = row["answers"]
        if not row["context"] or not row["question"]:
            raise RecipeError(f"data: row {number} of {split!r} has no context or no question")
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            there = row["context"][start : start + len(text)]
            if not text or there != text:
                raise RecipeError(
                    f"data: the answer {text!r} of row {number} of {split!r} does not stand at character {start} of "
                    f"its context, where there is {there!r}"
                )


def window_batch(found: Sequence[Window], pad: int, segments: bool) -> dict[str, Tensor]:
    """Windows as a model's inputs, with the answers' positions."""
    ids, mask = token_rows([window.input_ids for window in found], pad)
    batch = {
        "start_positions": torch.tensor([window.start for window in found]),
        "end_positions": torch.tensor([window.end for window in found]),
        "input_ids": ids,
        "attention_mask": mask,
    }
    return batch | ({"token_type_ids": token_rows([w.token_type_ids for w in found], 0).ids} if segments else {})


def best_spans(
    start: Tensor, end: Tensor, places: Sequence[tuple[int, int]], context: str, limits: Limits
) -> list[Span]:
    """The likeliest spans of a window, best first; start and end: (length,) logits."""
    inside = torch.tensor([tuple(place) != NOWHERE for place in places])  # a data set gives lists
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
        spans.append(span_of(score, context, places[place // length][0], places[place % length][1]))
    return spans


def span_of(score: float, context: str, first: int, last: int) -> Span:
    """A piece of the context; some tokenizers count the space before a word to it."""
    text = context[first:last]
    first += len(text) - len(text.lstrip())
    return Span(score, text.strip(), first, first + len(text.strip()))


class SpanMetrics:
    """Exact match and word F1 of the answers, as SQuAD's evaluation counts them, and the loss; for PlaitTrainer.

    The windows of a question come one after the other, and of each question only the best spans are kept.
    """

    def __init__(self, names: Sequence[str], limits: Limits) -> None:
        self.chosen = list(names)
        self.limits = limits
        self.start()

    @property
    def names(self) -> list[str]:
        """What the metrics are called in the results, beside the loss."""
        return self.chosen

    def start(self) -> None:
        """Forget everything."""
        self.metrics = text_metrics(self.chosen)
        self.loss, self.known = 0.0, 0
        self.open: Found | None = None

    def records(self, model: PlaitPreTrainedModel, batch: Mapping[str, Any]) -> list[Found]:
        """What is kept of a batch: `inputs` of the model, and for each window its row, places, context, answers."""
        inputs = batch["inputs"]
        positions = torch.stack((inputs["start_positions"], inputs["end_positions"]), dim=1)
        outputs = model(**{name: value for name, value in inputs.items() if not name.endswith("_positions")})
        logits = torch.stack((outputs.start_logits, outputs.end_logits), dim=-1)
        real = inputs["attention_mask"].bool()
        found = []
        for number, window in enumerate(batch["windows"]):
            one = slice(number, number + 1)
            loss = span_loss(logits[one], real[one], positions[one])
            known = int(positions[number, 0] != IGNORED)
            start, end = logits[number].cpu().unbind(-1)
            spans = best_spans(start, end, window["places"], window["context"], self.limits)
            nothing = float(start[0] + end[0])
            found.append(Found(window["row"], spans, nothing, window["references"], float(loss), known))
        return found

    def add(self, records: Sequence[Found]) -> None:
        """One more batch of windows, of all processes."""
        for found in records:
            self.loss += found.loss
            self.known += found.known
            if self.open is not None and self.open.row != found.row:
                self.close()
            self.open = found if self.open is None else joined(self.open, found, self.limits)

    def close(self) -> None:
        """The open question has no further windows: answer it."""
        if self.open is not None:
            self.metrics.add([answer_of(self.open, self.limits)], [self.open.references or [""]])
            self.open = None

    def compute(self) -> dict[str, float]:
        """`{name: value}` over all questions so far."""
        self.close()
        return {"loss": self.loss / max(self.known, 1), **self.metrics.compute()}

    def rows(self) -> Rows:
        """What each question reached, in the order of adding."""
        self.close()
        return text_rows(self.metrics)

    def predictions(self, records: Sequence[Found]) -> list[Found]:
        """What the Trainer's `predict` returns: the candidates of every window."""
        return list(records)


def joined(first: Found, second: Found, limits: Limits) -> Found:
    """Two windows of a question: the best spans of both; nothing only where both say so."""
    spans = sorted([*first.spans, *second.spans], key=lambda span: -span.score)[: limits.n_best]
    return first._replace(spans=spans, nothing=min(first.nothing, second.nothing))


def answer_of(found: Found, limits: Limits) -> str:
    """The best span's text, or nothing."""
    return "" if refused(found, limits) else found.spans[0].text


def refused(found: Found, limits: Limits) -> bool:
    """Whether "no answer" is the answer."""
    return not found.spans or (limits.no_answer is not None and found.nothing - found.spans[0].score > limits.no_answer)
