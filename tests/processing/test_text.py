"""Texts: which rows have one, what stands where there is none, where a long one is cut."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from plait.processing import PlaitProcessor

LONG = "what colour is the cat where is the red dog"


def test_a_row_without_a_text_is_padding_alone(processor: PlaitProcessor) -> None:
    out = processor(text=["the cat", None, "the red dog"], return_tensors="pt")
    assert out["input_ids"].tolist() == [[2, 6, 7, 3, 0], [0] * 5, [2, 6, 9, 8, 3]]
    assert out["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [0] * 5, [1] * 5]
    assert out["token_type_ids"].tolist() == [[0] * 5] * 3


def test_an_empty_text_is_its_special_tokens(processor: PlaitProcessor) -> None:
    out = processor(text=["", "the cat"], return_tensors="pt")
    assert out["input_ids"].tolist() == [[2, 3, 0, 0], [2, 6, 7, 3]]
    assert processor(text="")["attention_mask"] == [[1, 1]]


def test_an_empty_text_without_special_tokens_is_a_row_without_text(gpt_tokenizer: PreTrainedTokenizerFast) -> None:
    processor = PlaitProcessor(tokenizer=gpt_tokenizer)
    assert processor(text=["", "the cat"])["attention_mask"] == [[0, 0], [1, 1]]
    for text in ("", ["", None]):
        out = processor(text=text, return_tensors="pt")
        assert out["input_ids"].dtype == torch.int64
        assert out["input_ids"].shape[1] == 1
        assert not out["attention_mask"].any()


@pytest.mark.parametrize("text", [[None], [None, None]])
def test_a_batch_without_any_text_keeps_its_shape(processor: PlaitProcessor, text: list[None]) -> None:
    out = processor(text=text, return_tensors="pt")
    assert out["input_ids"].shape == out["attention_mask"].shape
    assert len(out["input_ids"]) == len(text)
    assert out["input_ids"].shape[1] >= 1
    assert not out["attention_mask"].any()


def test_a_tokenizer_without_a_pad_token_pads_with_its_end(gpt_tokenizer: PreTrainedTokenizerFast) -> None:
    processor = PlaitProcessor(tokenizer=gpt_tokenizer)
    out = processor(text=["the <end>", "the cat is red"])
    assert out["input_ids"] == [[3, 0, 0, 0], [3, 4, 2, 6]]
    assert out["attention_mask"] == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert gpt_tokenizer.pad_token is None


def test_a_tokenizer_that_cannot_pad_is_a_clear_error(gpt_tokenizer: PreTrainedTokenizerFast) -> None:
    gpt_tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither a pad nor an eos token: set tokenizer.pad_token"):
        PlaitProcessor(tokenizer=gpt_tokenizer)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_is_the_tokenizers(bert_tokenizer: PreTrainedTokenizerFast, side: str) -> None:
    bert_tokenizer.padding_side = side
    mask = PlaitProcessor(tokenizer=bert_tokenizer)(text=["the", None, "the red cat"])["attention_mask"]
    assert mask == [[0, 0, 1, 1, 1] if side == "left" else [1, 1, 1, 0, 0], [0] * 5, [1] * 5]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_long_text_is_cut_with_one_warning(processor: PlaitProcessor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fitting = processor(text="the cat is the red dog")
        assert len(fitting["input_ids"][0]) == 8
        assert not warnings_of(caplog)
        out = processor(text=["the cat is the red dog", None, LONG])
        processor(text=LONG)
    assert out["input_ids"][2] == [2, 12, 13, 5, 6, 7, 11, 3]
    (message,) = warnings_of(caplog)
    assert message.startswith("text, row 2: longer than the 8 tokens")


@pytest.mark.parametrize(
    ("end", "is_cut"), [(" " * 10_000, False), (" " * 10_000 + "cat", True), (" the cat" * 10_000, True)]
)
def test_where_a_very_long_text_ends_is_seen(
    processor: PlaitProcessor, caplog: pytest.LogCaptureFixture, end: str, is_cut: bool
) -> None:
    """Its beginning is looked at first, which of blanks says nothing."""
    with caplog.at_level(logging.WARNING):
        assert len(processor(text=["the cat is the red dog" + end])["input_ids"][0]) == 8
    assert len(warnings_of(caplog)) == is_cut


def test_a_cut_that_was_asked_for_is_silent(processor: PlaitProcessor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(processor(text=LONG, truncation=True)["input_ids"][0]) == 8
        assert len(processor(text=LONG, max_length=5)["input_ids"][0]) == 5
        assert len(processor(text=LONG, text_kwargs={"max_length": 4})["input_ids"][0]) == 4
    assert not warnings_of(caplog)
    assert len(processor(text=LONG, truncation=False, verbose=False)["input_ids"][0]) == 12


def test_a_tokenizer_without_a_limit_cuts_nothing(
    gpt_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(PlaitProcessor(tokenizer=gpt_tokenizer)(text=LONG + " is" * 3000)["input_ids"][0]) == 3010
    assert not warnings_of(caplog)


def test_a_tokenizer_in_python_works_alike(caplog: pytest.LogCaptureFixture) -> None:
    processor = PlaitProcessor(tokenizer=ByT5Tokenizer(model_max_length=6))
    with caplog.at_level(logging.WARNING):
        out = processor(text=["ab", None, "abcdefgh", ""])
    assert out["input_ids"] == [[100, 101, 1, 0, 0, 0], [0] * 6, [100, 101, 102, 103, 104, 1], [1, 0, 0, 0, 0, 0]]
    assert [sum(mask) for mask in out["attention_mask"]] == [3, 0, 6, 1]
    assert "text, row 2: longer than the 6 tokens" in caplog.text


def test_padding_can_be_chosen(processor: PlaitProcessor) -> None:
    assert len(processor(text="the cat", padding="max_length")["input_ids"][0]) == 8
    assert len(processor(text="the", pad_to_multiple_of=4)["input_ids"][0]) == 4
    ragged = processor(text=["the", "the cat", None], padding=False)
    assert [sum(mask) for mask in ragged["attention_mask"]] == [3, 4, 0]


def test_pairs_are_told_apart_by_segment(processor: PlaitProcessor) -> None:
    out = processor(text=["the cat", None], text_pair=["red", None])
    assert out["token_type_ids"] == [[0, 0, 0, 0, 1, 1], [0] * 6]
    assert out["attention_mask"] == [[1] * 6, [0] * 6]


def test_options_of_the_tokenizer_reach_it(processor: PlaitProcessor) -> None:
    out = processor(text=["the", None], return_offsets_mapping=True, return_special_tokens_mask=True)
    assert out["offset_mapping"] == [[(0, 0), (0, 3), (0, 0)], [(0, 0)] * 3]
    assert out["special_tokens_mask"] == [[1, 0, 1], [1, 1, 1]]
    assert processor(text="the", add_special_tokens=False)["input_ids"] == [[6]]


def test_ids_are_decoded(processor: PlaitProcessor) -> None:
    ids = processor(text=["the cat", "red"])["input_ids"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["the cat", "red"]
    assert processor.decode(ids[0], skip_special_tokens=True) == "the cat"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (3, r"text: 3 \(int\) is neither a string nor a list"),
        (b"the cat", "text: b'the cat' .bytes. is neither"),
        (np.array(["the", "cat"]), r"\(ndarray\) is neither"),
        (["the", 3.5], r"text, row 1: 3.5 \(float\) is not a string"),
        (["the", float("nan")], r"text, row 1: nan \(float\) is not a string.*None"),
        ([None, b"cat"], r"text, row 1: b'cat' \(bytes\) is not a string"),
        ([["the", "cat"]], r"text, row 0: \['the', 'cat'\] \(list\) is not a string"),
        ([], "text is an empty list"),
    ],
)
def test_what_is_no_text_is_a_clear_error(processor: PlaitProcessor, text: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        processor(text=text)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (["red"], "text has 2 rows, text_pair has 1"),
        (["red", None], "row 1 has only one of text and text_pair"),
        (["red", 4], r"text_pair, row 1: 4 \(int\) is not a string"),
    ],
)
def test_pairs_that_do_not_fit_are_a_clear_error(processor: PlaitProcessor, pair: list[Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        processor(text=["the cat", "the dog"], text_pair=pair)


def test_a_tokenizer_without_an_attention_mask_pads_to_one_length(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    """SigLIP's: its model was trained on padded texts and reads the padding. A row without a text stays absent."""
    bert_tokenizer.model_input_names = ["input_ids"]
    processor = PlaitProcessor(tokenizer=bert_tokenizer)
    for options in ({}, {"padding": True, "truncation": True}, {"padding": "max_length", "max_length": 8}):
        out = processor(text=["the cat", None], return_tensors="pt", **options)
        assert out["input_ids"].tolist() == [[2, 6, 7, 3, 0, 0, 0, 0], [0] * 8]
        assert out["attention_mask"].tolist() == [[1] * 8, [0] * 8]
    longest = processor(text=["the cat", "the red dog"], padding="longest")
    assert longest["attention_mask"] == [[1, 1, 1, 1, 0], [1] * 5]
    bert_tokenizer.model_max_length = 10**30
    assert processor(text=["the", "the cat"])["attention_mask"] == [[1, 1, 1, 0], [1] * 4]
