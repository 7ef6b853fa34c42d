"""The task of extractive question answering: the answer is a span of the context (SQuAD)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.question_answering import PlaitForQuestionAnswering
from ...processing import PlaitProcessor
from ..data.inputs import collect_rows, require_tokenizer
from ..data.labels import LabelSpec
from ..data.loading import DataSplits
from ..data.media import Row
from ..data.question_windows import (
    Window,
    WindowLimits,
    build_window_batch,
    check_answers,
    normalize_answers,
    split_windows,
)
from ..data.row_encoder import RowEncoder
from ..metrics.question_answering import Span, SpanMetrics, WindowRecord, is_no_answer, merge_windows
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import IMAGE_ROLES, BaselinePredictions, Settings, Task, move_to_device

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_MAX_LENGTH = 384
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@strict
@dataclass
class QuestionAnsweringSettings(Settings):
    """`doc_stride`: tokens that neighbouring windows of a long context share; `n_best`: spans kept for a question;
    `max_answer_length`: tokens of an answer at most; `no_answer_threshold`: by how much "no answer" must score above
    the best span to be the answer (None: a span is always the answer); `top_k`: above 1, the number of answers of a
    question that are also listed as `candidates`."""

    doc_stride: int = 128
    n_best: int = 20
    max_answer_length: int = 30
    no_answer_threshold: float | int | None = None
    top_k: int = 1


class QuestionAnswering(Task):
    """Extractive question answering on the columns `question`, `context` and `answers` (see `normalize_answers`; empty
    if the context has no answer), in windows of `max_length` tokens (default: 384, or all positions if fewer)."""

    name: ClassVar[str] = "question_answering"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForQuestionAnswering
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    roles: ClassVar[tuple[str, ...]] = ("question", "context", "answers", "answer_start", *IMAGE_ROLES)
    target_columns: ClassVar[tuple[str, ...]] = ("answers", "answer_start")
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("question",), ("context",), ("answers",))
    prompt_columns: ClassVar[dict[str, str]] = {"text": "question", "context": "context", "image": "image"}
    metrics: ClassVar[tuple[str, ...]] = ("exact_match", "token_f1")
    settings: ClassVar[type[Settings]] = QuestionAnsweringSettings
    chunk_name: ClassVar[str] = "windows"
    has_row_scores: ClassVar[bool] = True
    can_cache_text: ClassVar[bool] = False

    def collect_tokenizer_texts(self, data: "Dataset", part: str) -> list[str]:
        """Returns all questions and contexts."""
        return [*data["question"], *data["context"]]

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Splits each row into windows, with the position of the answer in them.

        Raises RecipeError for answers that are not in their context or lack a position.
        """
        read = check_answer_form(collect_rows(data), split)
        if "answer_start" in recipe.data.columns and not has_flat_answers(read[0]):
            raise RecipeError(
                f"data.columns: nothing reads answer_start, as the answers of {split!r} hold their own positions: "
                "leave it out"
            )
        given = [normalize_answers(row) for row in read]
        check_answers(given, split)
        limits = build_window_limits(self.build_settings(recipe.settings), processor, recipe.max_length)
        found = list(split_windows(require_tokenizer(processor), given, limits))
        rows = data.select([window.row for window in found])
        rows = rows.remove_columns([name for name in ("question", *self.target_columns) if name in rows.column_names])
        columns: dict[str, list[Any]] = {name: [getattr(window, name) for window in found] for name in Window._fields}
        columns["references"] = [given[window.row]["answers"]["text"] for window in found]
        for name, values in columns.items():
            rows = rows.add_column(name, values)
        return rows

    def count_tokens(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        """Counts the tokens of each window."""
        return [len(ids) for ids in data["input_ids"]]

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds the inputs of windows with the answers' positions, and of their images."""
        found = [Window(*(row[name] for name in Window._fields)) for row in rows]
        return {**self.build_window_inputs(collator, found), **collator.encode_images(rows)}

    def build_window_inputs(self, collator: RowEncoder, found: Sequence[Window]) -> dict[str, Any]:
        """Builds the text inputs of windows."""
        tokenizer: Any = require_tokenizer(collator.processor)
        return build_window_batch(found, tokenizer.pad_token_id, "token_type_ids" in tokenizer.model_input_names)

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `inputs` of the model, and `windows` with the data that SpanMetrics need."""
        kept = ("row", "places", "context", "references")
        return {
            "inputs": self.build_batch(collator, rows),
            "windows": [{name: row[name] for name in kept} for row in rows],
        }

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> SpanMetrics:
        """Builds the metrics of answers, by default exact match and token F1."""
        limits = build_window_limits(self.build_settings(recipe.settings), processor, recipe.max_length)
        return SpanMetrics(names or self.metrics, limits)

    def baseline_predictions(self, data: DataSplits, split: "Dataset") -> BaselinePredictions:
        """Predicts the whole context, its first sentence, a random span of it with the mean length of training answers
        and, if some questions have no answer, always "no answer"."""
        rows = select_first_windows(split)
        contexts = [str(row["context"]) for row in rows]
        found = {"context": contexts, "first_sentence": [SENTENCE_END.split(text, 1)[0] for text in contexts]}
        if not all(row["references"] for row in rows):
            found["no_answer"] = [""] * len(rows)
        if data.train is not None:
            known = [row["references"][0] for row in select_first_windows(data.train) if row["references"]]
            words = round(sum(len(text.split()) for text in known) / max(len(known), 1)) or 1
            found["random_span"] = sample_spans(contexts, words)
        return BaselinePredictions(found, [row["references"] or [""] for row in rows])

    def collect_row_groups(self, split: "Dataset") -> list[str]:
        """Returns the context of each question: questions on the same context form a group."""
        return [row["context"] for row in select_first_windows(split)]

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields for each row the best `answer`, its `score` (a probability among the best spans), and its `start` and
        `end` in the context, in characters; an empty answer for "no answer". With `top_k` above 1 also the best `top_k`
        as `candidates`."""
        limits = build_window_limits(collator.settings, collator.processor, collator.max_length)
        found = list(split_windows(require_tokenizer(collator.processor), [drop_answers(row) for row in rows], limits))
        images = collator.encode_images([rows[window.row] for window in found])
        inputs = move_to_device({**self.build_window_inputs(collator, found), **images}, model)
        places = [
            {"row": w.row, "places": w.places, "context": rows[w.row]["context"], "references": []} for w in found
        ]
        with torch.no_grad():
            records = SpanMetrics((), limits).measure_batch(model, {"inputs": inputs, "windows": places})
        for _, pieces in groupby(records, key=lambda record: record.row):
            best, *others = pieces
            for piece in others:
                best = merge_windows(best, piece, limits)
            ranked = rank_answers(best, limits)
            several = {"candidates": ranked[: collator.settings.top_k]} if collator.settings.top_k > 1 else {}
            yield {**ranked[0], **several}

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "question-answering"."""
        return "question-answering"


def select_first_windows(data: "Dataset") -> list[Row]:
    """Selects the first window of each question, with the columns that are equal in all its windows."""
    kept: Any = data.select_columns(["row", "context", "references"])
    return [next(windows) for _, windows in groupby(kept, key=itemgetter("row"))]


def sample_spans(texts: Sequence[str], words: int, seed: int = 0) -> list[str]:
    """Samples a span of `words` words from a random place in each text."""
    generator = Random(seed)
    pieces = []
    for text in texts:
        split = text.split()
        first = generator.randrange(max(len(split) - words, 0) + 1)
        pieces.append(" ".join(split[first : first + words]))
    return pieces


def check_answer_form(rows: Sequence[Row], split: str) -> Sequence[Row]:
    """Returns the rows; raises RecipeError if their answers have no positions in the context."""
    if has_flat_answers(rows[0]) and "answer_start" not in rows[0]:
        raise RecipeError(
            f"data.columns: the answers of {split!r} are texts without positions: map a column to answer_start, the "
            "character of the context at which each answer begins"
        )
    return rows


def has_flat_answers(row: Row) -> bool:
    """Returns whether the answers of a row are texts, without their positions."""
    answers = row["answers"]
    return isinstance(answers, str) or (isinstance(answers, Sequence) and any(isinstance(a, str) for a in answers))


def drop_answers(row: Row) -> dict[str, Any]:
    """Returns a row without its answers."""
    return {name: value for name, value in row.items() if name != "answers"}


def build_window_limits(settings: Any, processor: PlaitProcessor, max_length: int | None) -> WindowLimits:
    """Builds the limits of windows and answers from the task's settings.

    Raises RecipeError for a tokenizer that is not fast.
    """
    tokenizer = require_tokenizer(processor)
    if not tokenizer.is_fast:
        raise RecipeError(
            "question answering needs a fast tokenizer, which gives the position of each token in the text: use a "
            "checkpoint with one (tokenizer.json)"
        )
    length = min(max_length or DEFAULT_MAX_LENGTH, tokenizer.model_max_length)
    return WindowLimits(
        length, settings.doc_stride, settings.n_best, settings.max_answer_length, settings.no_answer_threshold
    )


def rank_answers(found: WindowRecord, limits: WindowLimits) -> list[dict[str, Any]]:
    """Ranks the answers of a question, best first, as `predict_rows` yields them. With a threshold "no answer" is among
    them: first if it is the answer (see `is_no_answer`), else after the best span, in the order of the scores."""
    answers = list(found.spans)
    if limits.no_answer is not None or not answers:
        place = (
            0 if is_no_answer(found, limits) else max(1, sum(span.score >= found.no_answer_score for span in answers))
        )
        answers.insert(place, Span(found.no_answer_score, "", 0, 0))
    chances = torch.tensor([span.score for span in answers]).softmax(0).tolist()
    return [
        {"answer": span.text, "score": round(chance, 6), "start": span.start, "end": span.end}
        for span, chance in zip(answers, chances, strict=True)
    ]
