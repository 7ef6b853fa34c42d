"""The baselines and the answers of question answering, on spans that are written out."""

import math
from typing import Any

import pytest
import torch
from datasets import Dataset

from plait.training.data.loading import DataSplits
from plait.training.data.question_windows import (
    OUTSIDE_CONTEXT,
    Window,
    WindowLimits,
    build_window_batch,
    ensure_list,
    find_answer_tokens,
    normalize_answers,
)
from plait.training.metrics.question_answering import (
    Span,
    SpanMetrics,
    WindowRecord,
    find_best_spans,
    is_no_answer,
    merge_windows,
    select_answer,
)
from plait.training.recipes.errors import RecipeError
from plait.training.tasks.question_answering import (
    check_answer_form,
    drop_answers,
    has_flat_answers,
    rank_answers,
    sample_spans,
    select_first_windows,
)
from plait.training.tasks.registry import find_task

LIMITS = WindowLimits(max_length=16, stride=4, n_best=3, max_answer_length=2, no_answer=None)
CONTEXT = "Anna lives in Rome. Ben does not! Does Cara? Nobody knows."


def make_windows(*rows: tuple[str, list[str], int]) -> Dataset:
    """Windows of questions: a context, its references and the number of its windows."""
    return Dataset.from_list(
        [
            {"row": number, "context": context, "references": references}
            for number, (context, references, windows) in enumerate(rows)
            for _ in range(windows)
        ]
    )


def record(scores: list[float], no_answer: float, row: int = 0, loss: float = 0.0, known: int = 1) -> WindowRecord:
    spans = [Span(score, f"span {score:g}", 3, 9) for score in scores]
    return WindowRecord(row, spans, no_answer, ["span 5"], loss, known)


@pytest.mark.parametrize(("words", "starts"), [(1, 5), (2, 4), (5, 1), (9, 1)])
def test_a_random_span_may_begin_at_every_word_that_leaves_room(words: int, starts: int) -> None:
    split = "a b c d e".split()
    found = sample_spans(["a b c d e"] * 200, words)
    assert set(found) == {" ".join(split[start : start + words]) for start in range(starts)}
    assert found == sample_spans(["a b c d e"] * 200, words, seed=0)
    assert starts == 1 or found != sample_spans(["a b c d e"] * 200, words, seed=1)


def test_every_baseline_of_questions_that_all_have_an_answer() -> None:
    split = make_windows((CONTEXT, ["Rome"], 2), ("No end here", ["No", "end"], 1))
    train = make_windows(("x", ["one two three"], 3), ("y", ["one"], 1), ("z", ["one two three four five", "x"], 1))
    found = find_task("question_answering").baseline_predictions(DataSplits({"train": train}, None), split)
    assert set(found.texts) == {"context", "first_sentence", "random_span"}
    assert found.texts["context"] == [CONTEXT, "No end here"]
    assert found.texts["first_sentence"] == ["Anna lives in Rome.", "No end here"]
    spans = found.texts["random_span"]  # three words: the mean length of the first answers
    assert [len(text.split()) for text in spans] == [3, 3] and spans[0] in CONTEXT and spans[1] == "No end here"
    assert found.references == [["Rome"], ["No", "end"]]


def test_baselines_with_unanswered_questions_and_without_training_answers() -> None:
    task = find_task("question_answering")
    split = make_windows((CONTEXT, [], 1), (CONTEXT, ["Ben"], 1))
    found = task.baseline_predictions(DataSplits({}, None), split)
    assert set(found.texts) == {"context", "first_sentence", "no_answer"}
    assert found.texts["no_answer"] == ["", ""] and found.references == [[""], ["Ben"]]
    unanswered = make_windows(("x", [], 1), ("y", ["one two three"], 1))
    spans = task.baseline_predictions(DataSplits({"train": unanswered}, None), split).texts["random_span"]
    assert [len(text.split()) for text in spans] == [3, 3]
    nothing = Dataset.from_list([{"row": 0, "context": "x", "references": [""]}])
    spans = task.baseline_predictions(DataSplits({"train": nothing}, None), split).texts["random_span"]
    assert [len(text.split()) for text in spans] == [1, 1]  # a span is never empty


def test_first_windows_stand_for_their_questions() -> None:
    data = make_windows((CONTEXT, ["Rome"], 3), ("y", [], 1), (CONTEXT, ["Ben"], 2))
    rows = select_first_windows(data)
    assert [(row["row"], row["references"]) for row in rows] == [(0, ["Rome"]), (1, []), (2, ["Ben"])]
    assert find_task("question_answering").collect_row_groups(data) == [CONTEXT, "y", CONTEXT]


@pytest.mark.parametrize(("answers", "flat"), [("Rome", True), (["Rome"], True), ([], False), ({"text": []}, False)])
def test_answers_without_positions_are_told_from_others(answers: Any, flat: bool) -> None:
    assert has_flat_answers({"answers": answers}) is flat
    rows = [{"answers": answers, "answer_start": [0]}]
    assert check_answer_form(rows, "train") is rows
    if flat:
        with pytest.raises(RecipeError, match="answers of 'test' are texts without positions"):
            check_answer_form([{"answers": answers}], "test")
    else:
        assert check_answer_form([{"answers": answers}], "test")
    assert drop_answers({"answers": answers, "question": "?"}) == {"question": "?"}


def test_answers_are_ranked_by_their_scores_and_their_chances_sum_to_one() -> None:
    found = rank_answers(record([5.0, 3.0, 1.0], no_answer=9.0), LIMITS)
    total = sum(math.exp(score) for score in (5, 3, 1))
    assert [answer["answer"] for answer in found] == ["span 5", "span 3", "span 1"]
    assert [answer["score"] for answer in found] == [round(math.exp(score) / total, 6) for score in (5, 3, 1)]
    assert (found[0]["start"], found[0]["end"]) == (3, 9)


@pytest.mark.parametrize(
    ("no_answer", "threshold", "place"),
    [(7.5, 2.0, 0), (7.0, 2.0, 1), (6.0, 2.0, 1), (4.0, 0.0, 1), (3.0, 0.0, 2), (2.9, 0.0, 2), (0.0, 0.0, 3),
     (0.0, -9.0, 0)],
)  # fmt: skip
def test_no_answer_has_its_place_among_the_answers(no_answer: float, threshold: float, place: int) -> None:
    limits = LIMITS._replace(no_answer=threshold)
    found = record([5.0, 3.0, 1.0], no_answer)
    ranked = rank_answers(found, limits)
    assert [answer["answer"] for answer in ranked].index("") == place and len(ranked) == 4
    assert (ranked[place]["start"], ranked[place]["end"]) == (0, 0)
    assert is_no_answer(found, limits) is (place == 0)
    assert select_answer(found, limits) == ("" if place == 0 else "span 5")
    assert is_no_answer(found, LIMITS) is False


def test_without_a_span_there_is_no_answer() -> None:
    assert rank_answers(record([], 1.0), LIMITS) == [{"answer": "", "score": 1.0, "start": 0, "end": 0}]
    assert is_no_answer(record([], -9.0), LIMITS)


def test_merged_windows_keep_the_best_spans_and_the_lower_no_answer() -> None:
    merged = merge_windows(record([5.0, 1.0], 2.0), record([4.0, 3.0], 1.5, row=0), LIMITS)
    assert [span.score for span in merged.spans] == [5.0, 4.0, 3.0] and merged.no_answer_score == 1.5


def test_metrics_answer_each_question_once_by_its_best_window() -> None:
    metrics = SpanMetrics(["exact_match"], LIMITS)
    metrics.update([record([1.0], 0.0, loss=0.5), record([5.0], 0.0, loss=1.5), record([4.0], 0.0, row=1, loss=4.0)])
    metrics.update([record([], 0.0, row=2, loss=8.0, known=0)])
    assert metrics.compute() == {"loss": pytest.approx(14.0 / 3), "exact_match": pytest.approx(1 / 3)}
    assert metrics.names == ["exact_match"]
    assert metrics.compute_per_row()["exact_match"].totals.tolist() == [1.0, 0.0, 0.0]
    metrics.reset()
    assert metrics.pending is None and metrics.loss == 0 and metrics.known == 0
    metrics.update([record([5.0], 0.0, loss=2.0)])
    assert metrics.compute() == {"loss": 2.0, "exact_match": 1.0}


def test_the_best_spans_are_those_of_every_pair_of_tokens() -> None:
    places = [OUTSIDE_CONTEXT, (0, 4), (4, 10), (10, 13), OUTSIDE_CONTEXT]
    start, end = torch.tensor([9.0, 1.0, 2.0, 0.5, 9.0]), torch.tensor([9.0, 0.1, 0.2, 3.0, 9.0])
    pairs = [(i, j) for i in (1, 2, 3) for j in (1, 2, 3) if 0 <= j - i < 2]
    pairs.sort(key=lambda pair: -float(start[pair[0]] + end[pair[1]]))
    found = find_best_spans(start, end, places, "Anna lives in Rome", LIMITS._replace(n_best=4))
    assert [(span.start, span.end) for span in found] == [
        (places[i][0] + (places[i][0] == 4) + (places[i][0] == 10), places[j][1]) for i, j in pairs[:4]
    ]
    assert [span.score for span in found] == pytest.approx([float(start[i] + end[j]) for i, j in pairs[:4]])
    assert len(find_best_spans(start, end, places, "Anna lives in Rome", LIMITS._replace(n_best=20))) == len(pairs)
    assert find_best_spans(start, end, [OUTSIDE_CONTEXT] * 5, "Anna", LIMITS) == []


@pytest.mark.parametrize(
    ("start", "text", "expected"),
    [(4, "cd", (2, 2)), (4, "cd ef", (2, 3)), (5, "d", (2, 2)), (0, "ab", (1, 1)), (6, " ", (0, 0)),
     (7, "ef g", (-100, -100)), (10, "gh", (0, 0)), (0, "", (0, 0))],
)  # fmt: skip
def test_the_tokens_of_an_answer(start: int, text: str, expected: tuple[int, int]) -> None:
    """Of "ab  cd ef gh", the window ends after "ef"."""
    places = [OUTSIDE_CONTEXT, (0, 2), (4, 6), (7, 9), OUTSIDE_CONTEXT]
    answers = {"text": [text] if text else [], "answer_start": [start]}
    assert find_answer_tokens(places, answers) == expected
    assert find_answer_tokens(places, None) == (-100, -100)


def test_answers_of_every_form_are_one() -> None:
    expected = {"text": ["Rome"], "answer_start": [14]}
    for row in (
        {"answers": {"text": ["Rome"], "answer_start": [14]}},
        {"answers": [{"text": "Rome", "answer_start": 14, "id": 3}]},
        {"answers": "Rome", "answer_start": 14},
        {"answers": ["Rome"], "answer_start": [14]},
    ):
        assert normalize_answers(row)["answers"] == expected
    assert ensure_list("ab") == ["ab"] and ensure_list(3) == [3] and ensure_list((1, 2)) == [1, 2]


def test_windows_are_padded_to_one_length() -> None:
    windows = [Window(0, [5, 6, 7], [0, 0, 1], [], 1, 2), Window(0, [8], [1], [], 0, 0)]
    batch = build_window_batch(windows, 9, segments=True)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert batch["start_positions"].tolist() == [1, 0] and batch["end_positions"].tolist() == [2, 0]
    assert "token_type_ids" not in build_window_batch(windows, 9, segments=False)
