"""Texts to be written: labels, and the tokenizer that makes them."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, PreTrainedTokenizerFast, ViTConfig

from plait.processing import PlaitProcessor


@pytest.fixture
def writer(bert_tokenizer: PreTrainedTokenizerFast, gpt_tokenizer: PreTrainedTokenizerFast) -> PlaitProcessor:
    """Reads with one tokenizer, writes with another."""
    return PlaitProcessor.compose(text=bert_tokenizer, decoder=gpt_tokenizer)


TARGETS = ["red", "the cat is blue", "dog <end>"]


def test_labels_are_the_targets_with_an_end_and_padding_that_the_loss_ignores(writer: PlaitProcessor) -> None:
    labels = writer(text=["where", "what", "is"], text_target=TARGETS, return_tensors="pt")["labels"]
    assert labels.dtype == torch.int64
    words = {name: writer.target_tokenizer.convert_tokens_to_ids(name) for name in "the cat is blue red dog".split()}
    end = writer.target_tokenizer.eos_token_id
    assert labels.tolist() == [
        [words["red"], end, -100, -100, -100],
        [words["the"], words["cat"], words["is"], words["blue"], end],
        [words["dog"], end, -100, -100, -100],
    ]


def test_special_tokens_of_the_targets_tokenizer_stay(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    processor = PlaitProcessor(tokenizer=bert_tokenizer)
    out = processor(text="the cat", text_target="the cat")
    assert out["labels"] == out["input_ids"]  # [CLS] the cat [SEP]: it ends already


def test_labels_decode_to_the_targets(writer: PlaitProcessor) -> None:
    labels = writer(text_target=TARGETS, return_tensors="pt")["labels"]
    ids = labels.masked_fill(labels == -100, writer.target_tokenizer.pad_token_id)
    assert writer.batch_decode(ids, skip_special_tokens=True) == ["red", "the cat is blue", "dog"]
    assert writer.decode(ids[1], skip_special_tokens=True) == "the cat is blue"


def test_padding_on_the_left_leaves_labels_on_the_right(gpt_tokenizer: PreTrainedTokenizerFast) -> None:
    processor = PlaitProcessor.compose(decoder=gpt_tokenizer)
    out = processor(text=["the", "the cat"], text_target=["red", "the dog"], return_tensors="pt")
    assert out["attention_mask"].tolist() == [[0, 1], [1, 1]]
    assert (out["labels"] == -100).tolist() == [[False, False, True], [False, False, False]]


def test_a_target_is_cut_before_its_end(writer: PlaitProcessor, bert_tokenizer: PreTrainedTokenizerFast) -> None:
    short = writer(text_target=TARGETS, max_target_length=3, return_tensors="pt")["labels"]
    whole = writer(text_target=TARGETS, return_tensors="pt")["labels"]
    assert short.shape == (3, 3)
    assert torch.equal(short[1, :2], whole[1, :2])
    assert short[1, 2] == writer.target_tokenizer.eos_token_id
    assert torch.equal(short[0], whole[0, :3])
    own = PlaitProcessor(tokenizer=bert_tokenizer)(text_target="the cat is red blue where what colour is")["labels"]
    assert len(own[0]) == bert_tokenizer.model_max_length
    assert own[0][-1] == bert_tokenizer.sep_token_id


def test_the_first_unasked_cut_is_warned_about_once(
    bert_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    processor = PlaitProcessor(tokenizer=bert_tokenizer)
    logging.getLogger("transformers").propagate = True
    for _ in range(2):
        processor(text_target=["red", "the " * 20])
    assert [record.getMessage() for record in caplog.records if "truncated there" in record.getMessage()] == [
        "text_target, row 1: longer than the 8 tokens that the model generates, and truncated there; further "
        "rows are truncated without a warning"
    ]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["red", ""], "text_target, row 1: '' is an empty target"),
        (["red", "  "], "text_target, row 1: '  ' is an empty target"),
        ([None, "red"], "text_target, row 0: None is an empty target"),
        (["red", 5], r"text_target, row 1: 5 \(int\) is not a string"),
        (["red"], "text has 2 rows, text_target has 1 rows"),
        ([], "text_target is an empty list"),
    ],
)
def test_a_row_without_a_target_is_a_clear_error(writer: PlaitProcessor, targets: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        writer(text=["the", "cat"], text_target=targets)


def test_a_tokenizer_that_cannot_end_is_a_clear_error(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    bert_tokenizer.sep_token = None
    with pytest.raises(ValueError, match="neither an eos nor a sep token"):
        PlaitProcessor(tokenizer=bert_tokenizer)(text_target="the cat")
    bert_tokenizer.eos_token = "[SEP]"
    with pytest.raises(ValueError, match="max_target_length is 1: .* at least 2 tokens"):
        PlaitProcessor(tokenizer=bert_tokenizer)(text_target="the cat", max_target_length=1)


def test_which_tokenizer_writes(
    bert_tokenizer: PreTrainedTokenizerFast, gpt_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    bert_tokenizer.save_pretrained(tmp_path)
    for one in (bert_tokenizer, tmp_path, str(tmp_path)):
        same = PlaitProcessor.compose(text=one, decoder=tmp_path if one is tmp_path else one)
        assert same.get_attributes() == ["tokenizer"]
        assert same.target_tokenizer is same.tokenizer
        assert same.tokenizer.padding_side == "right"
    assert not hasattr(PlaitProcessor.compose(text=tmp_path, decoder=str(tmp_path)), "decoder_tokenizer")
    other = PlaitProcessor.compose(text=bert_tokenizer, decoder=gpt_tokenizer)
    assert other.get_attributes() == ["tokenizer", "decoder_tokenizer"]
    assert other.target_tokenizer is other.decoder_tokenizer
    assert other.tokenizer is bert_tokenizer
    alone = PlaitProcessor.compose(decoder=gpt_tokenizer)
    assert alone.get_attributes() == ["tokenizer"]
    assert (alone.tokenizer.padding_side, gpt_tokenizer.padding_side) == ("left", "right")


def test_both_tokenizers_survive_saving(writer: PlaitProcessor, tmp_path: Path) -> None:
    writer.save_pretrained(tmp_path / "inner")
    expected = writer(text=["the cat"], text_target=["the dog"])
    loaded = (
        PlaitProcessor.from_pretrained(tmp_path / "inner"),
        AutoProcessor.from_pretrained(tmp_path / "inner"),
        PlaitProcessor.from_pretrained(tmp_path, subfolder="inner"),
    )
    for processor in loaded:
        assert processor.get_attributes() == ["tokenizer", "decoder_tokenizer"]
        assert dict(processor(text=["the cat"], text_target=["the dog"])) == dict(expected)
        assert processor.decode(expected["labels"][0]) == "the dog <end>"
    again = PlaitProcessor.compose(text=tmp_path / "inner", decoder=tmp_path / "inner")
    assert dict(again(text=["the cat"], text_target=["the dog"])) == dict(expected)
    read = PlaitProcessor.compose(decoder=tmp_path / "inner")
    assert read.tokenizer.eos_token == "<end>"


def test_a_decoder_without_a_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="decoder: .* has no tokenizer"):
        PlaitProcessor.compose(decoder=tmp_path)
    with pytest.raises(ValueError, match="no tokenizer, so it cannot read token ids"):
        _ = PlaitProcessor.compose(image=ViTConfig(image_size=8)).target_tokenizer
