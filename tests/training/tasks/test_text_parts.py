"""Windows, conversations, tokenizers and generation settings, each by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from plait import PlaitProcessor
from plait.training.data.question_windows import WindowLimits, build_window_batch, normalize_answers, split_windows
from plait.training.data.tokenizer import PREFIX_TEMPLATE, TARGET_TEMPLATE, rewrap_tokenizer, train_tokenizer
from plait.training.metrics.question_answering import (
    Span,
    SpanMetrics,
    WindowRecord,
    find_best_spans,
    merge_windows,
    select_answer,
)
from plait.training.recipes.errors import RecipeError
from plait.training.tasks.causal_lm import split_blocks, tokenize_documents
from plait.training.tasks.dialogue import CHAT_TEMPLATE, render_conversation, tokenize_conversation
from plait.training.tasks.question_answering import rank_answers

from ..text_recipes import FILLER, chats, pairs, questions

LIMITS = WindowLimits(max_length=32, stride=8, n_best=5, max_answer_length=10, no_answer=None)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [FILLER, *(row["context"] for row in questions()), *(row["target"] for row in pairs(20))]
    texts += [message["content"] for row in chats() for message in row["messages"]]
    return train_tokenizer(texts, 64, vocab_size=400, lowercase=False, min_frequency=1)


def test_windows_cover_the_context_and_find_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = questions(filler=6)
    found = list(split_windows(tokenizer, rows, LIMITS))
    assert len(found) > 3 * len(rows)
    for number, row in enumerate(rows):
        mine = [window for window in found if window.row == number]
        assert all(len(window.input_ids) <= 32 for window in mine)
        covered = {char for window in mine for start, end in window.places for char in range(start, end)}
        assert {char for char, sign in enumerate(row["context"]) if sign != " "} <= covered
        whole = [window for window in mine if window.start > 0]
        assert whole  # somewhere the answer is not cut
        for window in whole:
            text = row["context"][window.places[window.start][0] : window.places[window.end][1]]
            assert text.strip() == row["answers"]["text"][0]
        assert sum(window.start == 0 for window in mine) >= len(mine) - 3  # where it is not, the first token is right


@given(depth=st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_the_best_span_is_found_wherever_it_stands(depth: int) -> None:
    """Scores that point at the answer in the window that holds it, and at nothing elsewhere."""
    texts = [FILLER, "Where is it ? Berlin"]
    made = train_tokenizer(texts, 64, vocab_size=300, min_frequency=1)
    context = "word " * depth + "Berlin" + " word" * (40 - depth)
    row = {"question": "Where ?", "context": context, "answers": {"text": ["Berlin"], "answer_start": [5 * depth]}}
    best: WindowRecord | None = None
    for window in split_windows(made, [row], LIMITS):
        batch = build_window_batch([window], 0, segments=False)
        start, end = (batch["input_ids"][0].float() * 0 for _ in range(2))
        if window.start > 0:
            start[window.start] = end[window.end] = 5.0
        spans = find_best_spans(start, end, window.places, context, LIMITS)
        found = WindowRecord(0, spans, 0.0, ["Berlin"], 0.0, 1)
        best = found if best is None else merge_windows(best, found, LIMITS)
    assert best is not None and select_answer(best, LIMITS) == "Berlin"
    assert best.spans[0].start == 5 * depth


def test_no_answer_is_given_where_it_is_likelier() -> None:
    found = WindowRecord(0, [Span(3.0, "Rome", 0, 4)], 4.5, [], 0.0, 1)
    assert select_answer(found, LIMITS) == "Rome"
    assert select_answer(found, LIMITS._replace(no_answer=1.0)) == ""
    assert select_answer(found, LIMITS._replace(no_answer=2.0)) == "Rome"
    metrics = SpanMetrics(["exact_match", "token_f1"], LIMITS._replace(no_answer=1.0))
    metrics.update([found, found._replace(row=1, references=["Rome"], no_answer_score=0.0)])
    assert [len(scores.totals) for scores in metrics.compute_per_row().values()] == [2, 2]  # the last one too
    assert metrics.compute() == {"loss": 0.0, "exact_match": 1.0, "token_f1": 1.0}


def test_spans_never_begin_outside_the_context() -> None:
    """Places come as tuples, or from a data set as lists."""
    scores = torch.tensor([9.0, 8.0, 1.0, 0.0])
    for places in ([(0, 0), (0, 0), (0, 4), (5, 9)], [[0, 0], [0, 0], [0, 4], [5, 9]]):
        spans = find_best_spans(scores, scores, places, "Rome city", LIMITS)  # pyright: ignore[reportArgumentType]
        assert [span.text for span in spans] == ["Rome", "Rome city", "city"]


def test_no_answer_takes_its_place_among_the_others() -> None:
    found = WindowRecord(0, [Span(3.0, "Rome", 0, 4), Span(1.0, "Paris", 9, 14)], 2.0, [], 0.0, 1)
    assert [answer["answer"] for answer in rank_answers(found, LIMITS)] == ["Rome", "Paris"]
    assert [answer["answer"] for answer in rank_answers(found, LIMITS._replace(no_answer=0.0))] == ["Rome", "", "Paris"]
    likelier = rank_answers(found, LIMITS._replace(no_answer=-2.0))
    assert [answer["answer"] for answer in likelier] == ["", "Rome", "Paris"]
    chances = torch.tensor([2.0, 3.0, 1.0]).softmax(0)
    assert [answer["score"] for answer in likelier] == pytest.approx(chances.tolist(), abs=1e-6)
    (alone,) = rank_answers(found._replace(spans=[]), LIMITS)
    assert alone == {"answer": "", "score": 1.0, "start": 0, "end": 0}


def test_windows_of_one_question_may_come_in_several_batches() -> None:
    low, high = (
        WindowRecord(0, [Span(1.0, "a", 0, 1)], 0.0, ["b"], 0.5, 1),
        WindowRecord(0, [Span(2.0, "b", 3, 4)], 0.0, ["b"], 0, 0),
    )
    other = low._replace(row=1, references=["a"])
    together, apart = (SpanMetrics(["exact_match"], LIMITS) for _ in range(2))
    together.update([low, high, other])
    for record in (low, high, other):
        apart.update([record])
    assert together.compute() == apart.compute() == {"loss": 0.5, "exact_match": 1.0}


def test_a_question_without_room_for_its_context_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"question": FILLER * 4, "context": "x", "answers": {"text": [], "answer_start": []}}
    with pytest.raises(RecipeError, match="the question of row 0 leaves -?[0-9]+ of 32 tokens"):
        list(split_windows(tokenizer, [row], LIMITS))


def test_only_the_replies_are_learnt(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = rewrap_tokenizer(tokenizer, TARGET_TEMPLATE)
    tokenizer.chat_template = CHAT_TEMPLATE
    messages = chats()[0]["messages"]
    ids, labels = tokenize_conversation(tokenizer, messages)
    learnt = tokenizer.decode([token for token, label in zip(ids, labels, strict=True) if label != -100])
    assert learnt.split() == ["Anna[SEP]", "Rome[SEP]"]
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    assert (
        tokenize_conversation(tokenizer, messages[:2]).input_ids
        == ids[: len(tokenize_conversation(tokenizer, messages[:2]).input_ids)]
    )


def test_a_reply_after_a_space_is_learnt_as_it_is_generated(tokenizer: PreTrainedTokenizerFast) -> None:
    """The space that ends the prompt and the word that begins the reply are one token of the text as a whole."""
    tokenizer = rewrap_tokenizer(tokenizer, TARGET_TEMPLATE)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("'assistant:'", "'assistant: '")
    messages = chats()[0]["messages"]
    ids, labels = tokenize_conversation(tokenizer, messages)
    learnt = tokenizer.decode([token for token, label in zip(ids, labels, strict=True) if label != -100])
    assert learnt.split() == ["Anna[SEP]", "Rome[SEP]"]
    prompt = render_conversation(tokenizer, messages[:1], begin=True)
    assert (ids[: len(prompt)], labels[: len(prompt)]) == (prompt, [-100] * len(prompt))


def test_a_template_that_rewrites_the_past_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = rewrap_tokenizer(tokenizer, TARGET_TEMPLATE)
    tokenizer.chat_template = "{{ messages | length }}" + CHAT_TEMPLATE
    with pytest.raises(RecipeError, match="settings.chat_template: message 1 changes the tokens"):
        tokenize_conversation(tokenizer, chats()[0]["messages"])


def test_documents_are_joined_and_cut_without_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    begun = rewrap_tokenizer(tokenizer, PREFIX_TEMPLATE)
    texts = [row["target"] for row in pairs(7)]
    rows = list(tokenize_documents(begun, [*texts, "", None]))
    assert len(rows) == 7 and all(row[0] == begun.bos_token_id and row[-1] == begun.eos_token_id for row in rows)
    flat = [token for row in rows for token in row]
    cut = list(split_blocks(iter(flat), 8))
    assert [token for row in cut for token in row] == flat
    assert {len(row) for row in cut[:-1]} == {8}


def test_one_vocabulary_wraps_texts_in_three_ways(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    begun, plain = rewrap_tokenizer(tokenizer, PREFIX_TEMPLATE), rewrap_tokenizer(tokenizer, TARGET_TEMPLATE)
    ids = plain("ein Hund").input_ids
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokenizer("ein Hund").input_ids == [start, *ids, end] and begun("ein Hund").input_ids == [start, *ids]
    processor = PlaitProcessor.compose(text=tokenizer, decoder=plain)
    processor.save_pretrained(tmp_path)
    again = PlaitProcessor.from_pretrained(tmp_path)
    values: Any = again(text=["ein Hund"], text_target=["ein Hund"])
    assert values["labels"] == [[*ids, end]] and values["input_ids"] == [[start, *ids, end]]
    assert again.batch_decode(values["labels"], skip_special_tokens=True) == [" ein Hund"]


def test_answers_may_be_written_in_three_ways() -> None:
    """As in SQuAD's data set, as in its file, and as two columns."""
    squad = {"answers": {"text": ["Rome"], "answer_start": [3]}}
    assert normalize_answers({"answers": [{"text": "Rome", "answer_start": 3}]}) == squad
    assert normalize_answers({"answers": ["Rome"], "answer_start": [3]})["answers"] == squad["answers"]
    assert normalize_answers({"answers": "Rome", "answer_start": 3})["answers"] == squad["answers"]
    assert normalize_answers({"answers": []})["answers"] == {"text": [], "answer_start": []}
