"""Turns what was recorded in an evaluation into the answers of a report."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.labels import MASKED_LM_PROBLEM, MULTI, REGRESSION
from ..metrics.generation import GeneratedRow, GenerationMetrics
from ..metrics.per_row import RowScore, RowScores, SupportsRowScores
from ..metrics.question_answering import SpanMetrics, WindowRecord, merge_windows, select_answer
from ..metrics.retrieval import DEPTHS, RetrievalItem, RetrievalMetrics, compute_query_ranks, group_sides
from ..tasks.base import Task
from .answers import ITEMS, MOST_TEXTS, OTHER, TEXTS, Answers, GeneratedText, number_groups, select_evenly
from .recording import LabelRecorder, Recorder, StreamRecorder


def collect_answers(task: Task, recorder: Recorder, rows: Any) -> Answers:
    """Returns the answers for prepared rows that were recorded while these were evaluated."""
    if isinstance(recorder, LabelRecorder):
        return collect_label_answers(recorder)
    metrics = recorder.metrics
    if isinstance(metrics, RetrievalMetrics):
        return Answers(ITEMS, len(rows), scores=score_ranks(recorder, metrics.pair))
    answers = Answers(OTHER, len(rows))
    if isinstance(metrics, SpanMetrics):
        answers = Answers(TEXTS, len(rows), texts=collect_spans(recorder, metrics))
    elif isinstance(metrics, GenerationMetrics) and metrics.metric_names:
        answers = Answers(TEXTS, len(rows), texts=collect_texts_of(recorder.records))
    if isinstance(metrics, SupportsRowScores):
        values = metrics.compute_per_row()
        answers.scores = {name: score for name, score in values.items() if isinstance(score, RowScore)}
        answers.arrays = {**number_groups(task.collect_row_groups(rows))}
    return answers


def collect_label_answers(recorder: LabelRecorder) -> Answers:
    """Returns the answers of classes, several labels, numbers or masked words."""
    metrics, predictions, references = recorder.metrics, recorder.predictions, recorder.references
    if predictions is None or references is None:
        raise ValueError("nothing was evaluated: there are no answers to report")
    if metrics.problem_type == MASKED_LM_PROBLEM:
        loss, right, count = np.asarray(predictions, dtype=float).T
        scores = {"accuracy": RowScore(right, count), "perplexity": RowScore(loss, count, exponential=True)}
        return Answers(OTHER, len(predictions), scores=scores)
    names = [name for name, metric in metrics.metrics.items() if not metric.scores]
    chosen: np.ndarray = metrics.choose_labels(predictions)
    arrays: dict[str, np.ndarray]
    if metrics.problem_type == REGRESSION:
        arrays = {"truth": references.reshape(predictions.shape).astype(np.float64), "chosen": predictions}
    elif metrics.problem_type == MULTI:
        arrays = {"truth": references.astype(np.int8), "chosen": chosen.astype(np.int8)}
    else:
        arrays = {"truth": references.astype(np.int32), "chosen": chosen.astype(np.int32)}
    if recorder.confidence is not None:
        arrays["confidence"] = recorder.confidence.astype(np.float32)
    return Answers(metrics.problem_type, len(predictions), names, arrays)


def collect_texts_of(records: Sequence[GeneratedRow]) -> list[GeneratedText]:
    """Returns generated texts with their references, at most MOST_TEXTS at even distances."""
    numbers = select_evenly(len(records), MOST_TEXTS)
    return [GeneratedText(number, records[number].text, list(records[number].references)) for number in numbers]


def collect_spans(recorder: StreamRecorder, metrics: SpanMetrics) -> list[GeneratedText]:
    """Returns the answer of the best window of each question, with its reference answers; the number is that of the
    question's first window, which is a prepared row."""
    merged: dict[int, tuple[int, WindowRecord]] = {}
    for number, record in enumerate(recorder.records):
        first, before = merged.get(record.row, (number, None))
        merged[record.row] = (first, record if before is None else merge_windows(before, record, metrics.limits))
    found = list(merged.values())
    kept = [found[number] for number in select_evenly(len(found), MOST_TEXTS)]
    return [GeneratedText(first, select_answer(best, metrics.limits), list(best.references)) for first, best in kept]


def score_ranks(recorder: StreamRecorder, pair: tuple[str, str]) -> RowScores:
    """Returns for each query, in both directions, whether a relevant item is among the first, and 1 / rank."""
    items: list[RetrievalItem] = [item for row in recorder.records for item in row]
    sides, scores = group_sides(items), {}
    for first, second in (pair, pair[::-1]):
        ranks = compute_query_ranks(sides[first], sides[second])
        found = {f"recall@{depth}": ranks <= depth for depth in DEPTHS} | {"mrr": 1 / ranks}
        for name, values in found.items():
            scores[f"{first}_to_{second}_{name}"] = RowScore(values.astype(float), np.ones(len(ranks)))
    return scores
