"""Words of texts, and the tokens of each."""

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import plait
from plait.training.explanations.encoding import find_row_words
from plait.training.explanations.words import assign_words, find_words, guess_places

from ...compatibility.tiny_processors import make_tokenizer


def words_of(text: str, whole: tuple[str, ...] = ()) -> list[str]:
    return [text[first:past] for first, past in find_words(text, whole)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat's well-known hat, isn't it?", ["The", "cat's", "well-known", "hat", ",", "isn't", "it", "?"]),
        ("  two\n\tlines  ", ["two", "lines"]),
        ("猫は好き 3,5 km", ["猫", "は", "好", "き", "3", ",", "5", "km"]),
        ("été à Zürich", ["été", "à", "Zürich"]),
        ("кот и пёс", ["кот", "и", "пёс"]),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_special_tokens_are_one_word() -> None:
    assert words_of("a [MASK] b", ("[MASK]",)) == ["a", "[MASK]", "b"]


def test_pieces_belong_to_the_word_they_share_most_with() -> None:
    tokenizer: Any = SimpleNamespace(all_special_tokens=[])
    text = "playing chess"
    found = assign_words(text, [None, (0, 4), (4, 7), (7, 13), (7, 8), None], tokenizer)
    assert found.words == ["playing", "chess"] and found.spans == [(0, 7), (8, 13)]
    assert found.tokens.tolist() == [-1, 0, 0, 1, -1, -1]


def make_pieces() -> PreTrainedTokenizerFast:
    """A tokenizer whose words are several tokens."""
    pieces = {"[PAD]": 0, "[UNK]": 1, "play": 2, "##ing": 3, "chess": 4, "##s": 5}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def test_rows_with_padding_pairs_and_prompts() -> None:
    processor = plait.PlaitProcessor(tokenizer=make_pieces())
    found = find_row_words(processor, {"text": "plays chess"}, ["text"], [2, 5, 4, 0, 0], None)[0]
    assert found.tokens.tolist() == [0, 0, 1, -1, -1]
    left = find_row_words(processor, {"text": "plays chess"}, ["text"], [0, 2, 5, 4], None)[0]
    assert left.tokens.tolist() == [-1, 0, 0, 1]
    pair = find_row_words(processor, {"text": "chess", "text_pair": "playing"}, ["text", "text_pair"], [4, 2, 3], None)
    assert [one.tokens.tolist() for one in pair] == [[0, -1, -1], [-1, 0, 0]]
    processor.prompts = {"default": "play "}
    prompted = find_row_words(processor, {"text": "chess"}, ["text"], [2, 4], None)[0]
    assert prompted.tokens.tolist() == [-1, 0] and prompted.spans == [(0, 5)]
    absent = find_row_words(processor, {"text": None}, ["text"], [0, 0], None)[0]
    assert absent.words == [] and absent.tokens.tolist() == [-1, -1]


def test_a_row_of_other_tokens_is_an_error() -> None:
    processor = plait.PlaitProcessor(tokenizer=make_pieces())
    with pytest.raises(ValueError, match="which are not in its row"):
        find_row_words(processor, {"text": "chess"}, ["text"], [2, 3], None)


def test_special_and_unknown_tokens() -> None:
    """[CLS], [SEP] and [MASK] stay as they are; an unknown word is a word."""
    processor = plait.PlaitProcessor(tokenizer=make_tokenizer())
    ids = processor(text="the zebra [MASK]")["input_ids"][0]
    found = find_row_words(processor, {"text": "the zebra [MASK]"}, ["text"], ids, None)[0]
    assert found.words == ["the", "zebra", "[MASK]"] and found.tokens.tolist() == [-1, 0, 1, -1, -1]


def test_truncated_words_have_no_tokens() -> None:
    processor = plait.PlaitProcessor(tokenizer=make_tokenizer())
    row = {"text": "the cat is red"}
    ids = processor(text=row["text"], max_length=4, truncation=True)["input_ids"][0]
    found = find_row_words(processor, row, ["text"], ids, 4)[0]
    assert len(found.words) == 4 and found.tokens.tolist() == [-1, 0, 1, -1]


def test_places_without_offsets() -> None:
    """Each token where it stands next; a word that stands twice is not found twice at one place."""
    places = guess_places(make_tokenizer(), [1, 6, 7, 6, 2], "The cat the")
    assert places == [None, (0, 3), (4, 7), (8, 11), None]
