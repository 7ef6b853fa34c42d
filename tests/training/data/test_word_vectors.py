"""A text tower of static word vectors: built from a file or a matrix, saved with its tokenizer, composed."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from plait import PlaitForClassification, PlaitProcessor
from plait.configuration import PlaitVisionConfig
from plait.training.data.word_vectors import (
    build_word_tokenizer,
    check_vectors,
    read_vectors,
    save_word_tower,
)

WORDS = ["the", "red", "cat", "sat", "."]


def matrix(width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(WORDS), width)).astype(np.float32)


def lines(header: str = "") -> str:
    rows = (" ".join([word, *(repr(float(value)) for value in row)]) for word, row in zip(WORDS, matrix(), strict=True))
    return header + "\n".join(rows) + "\n"


@pytest.mark.parametrize("header", ["", "5 6\n"])
def test_a_file_and_a_matrix_give_the_same_tower(header: str, tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(lines(header))
    save_word_tower(file, tmp_path / "file")
    save_word_tower(matrix(), tmp_path / "matrix", WORDS)
    name = "towers.text.embeddings.token_embedding.weight"
    tables = [AutoModel.from_pretrained(tmp_path / source).state_dict()[name] for source in ("file", "matrix")]
    assert torch.equal(*tables)
    assert torch.equal(tables[0][2:], torch.from_numpy(matrix()))
    assert torch.allclose(tables[0][1], torch.from_numpy(matrix().mean(0)))
    assert not tables[0][0].any()


@torch.no_grad()
def test_a_token_is_its_vector_and_its_position(tmp_path: Path) -> None:
    tower = save_word_tower(matrix(), tmp_path, WORDS, max_length=8)
    processor = PlaitProcessor.compose(text=tmp_path)
    batch = processor(text=["The red cat, sat.", "red"], return_tensors="pt")
    assert batch["input_ids"].tolist() == [[2, 3, 4, 1, 5, 6], [3, 0, 0, 0, 0, 0]]
    output = tower(**batch)
    positions = tower.get_encoder("text").embeddings.position_embedding.weight
    expected = torch.from_numpy(matrix())[1] + positions[0]
    assert torch.allclose(output.last_hidden_state[1, 0], expected)
    assert torch.allclose(output.pooler_output[1], expected)
    cut = processor(text="cat " * 20, return_tensors="pt")
    assert cut["input_ids"].shape == (1, 8)


def test_it_composes_frozen_like_any_tower(tmp_path: Path) -> None:
    save_word_tower(matrix(8), tmp_path, WORDS)
    image = PlaitVisionConfig(image_size=16, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    model = PlaitForClassification.compose(text=tmp_path, image=image, labels=2, freeze="text", verbose=False).train()
    batch = PlaitProcessor.compose(text=tmp_path)(text=["the cat", None, "red"], return_tensors="pt")
    loss = model(**batch, pixel_values=torch.randn(3, 3, 16, 16), labels=torch.tensor([0, 1, 0])).loss
    loss.backward()
    table = model.get_input_embeddings().weight
    assert table.grad is None
    assert torch.equal(table[2:].detach(), torch.from_numpy(matrix(8)))
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []


@pytest.mark.parametrize(
    ("words", "vectors", "message"),
    [
        (WORDS[:4], matrix(), r"shape \(5, 6\) and 4 words do not match"),
        (["a", "b", "a", "c", "d"], matrix(), "'a' appears twice"),
        (WORDS, np.where(np.arange(5)[:, None] == 2, np.nan, matrix()), "vector of 'cat' is not finite"),
        (None, matrix(), "and 0 words"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    words: list[str] | None, vectors: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        save_word_tower(vectors, tmp_path, words)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text("a 1 2\nb 1 2 3\n")
    with pytest.raises(ValueError, match="line 2: 3 numbers, the first word has 2"):
        save_word_tower(file, tmp_path / "tower")
    file.write_text("")
    with pytest.raises(ValueError, match="has no word vectors"):
        save_word_tower(file, tmp_path / "tower")


@pytest.mark.parametrize("word", ["cat", "[PAD]"])
def test_a_word_that_stands_twice_is_named(word: str, tmp_path: Path) -> None:
    words = ["the", "red", "cat", "sat", word]
    with pytest.raises(ValueError, match=f"the word '{re.escape(word)}' appears twice or is reserved"):
        save_word_tower(matrix(), tmp_path, words)


def test_the_tower_is_words_and_positions_alone(tmp_path: Path) -> None:
    model = save_word_tower(matrix(), tmp_path, WORDS)
    config = model.config.text_config
    assert not model.training and model.config.pad_token_id == config.pad_token_id == 0
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (7, 6, 0)
    assert (config.num_attention_heads, config.output_norm, config.pooling) == (1, False, "mean")
    assert config.max_position_embeddings == 128
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 128 and tokenizer.model_input_names == ["input_ids", "attention_mask"]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, len(tokenizer)) == (0, 1, 7)


def test_case_is_kept_on_request_and_accents_are_composed() -> None:
    words = ["the", "The", "caf\u00e9"]
    texts = ["The the", "cafe\u0301", "CAF\u00c9"]
    lower, exact = (build_word_tokenizer(words, 9, lowercase) for lowercase in (True, False))
    assert lower(texts)["input_ids"] == [[2, 2], [4], [4]]
    assert exact(texts)["input_ids"] == [[3, 2], [4], [1]]
    assert exact.model_max_length == 9


def test_lines_are_read_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    for header in ("", "3 2\n"):
        file.write_text(header + "a 1 2\nb 3 4 \nc 5 6\n")
        for limit, count in ((1, 1), (2, 2), (3, 3), (4, 3), (None, 3)):
            words, rows = read_vectors(file, limit)
            assert words == ["a", "b", "c"][:count] and rows.tolist() == [[1, 2], [3, 4], [5, 6]][:count]
    file.write_text("a 1\nb 2\n")  # a width of one: the first line looks like a header
    assert read_vectors(file, None)[0] == ["b"]
    save_word_tower(tmp_path / "vectors.txt", tmp_path / "tower", limit=1, max_length=3, lowercase=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tower")
    assert len(tokenizer) == 3 and tokenizer.model_max_length == 3 and tokenizer("B b")["input_ids"] == [1, 2]


def test_what_is_wrong_with_vectors_is_named() -> None:
    check_vectors(["a"], torch.ones(1, 1))
    for words, wrong in ((["a"], torch.ones(1)), ([], torch.ones(0, 2)), (["a"], torch.ones(2, 2))):
        with pytest.raises(ValueError, match="do not match: pass .words, width."):
            check_vectors(words, wrong)
    with pytest.raises(ValueError, match="the vector of 'b' is not finite"):
        check_vectors(["a", "b", "c"], torch.tensor([[1.0, 1], [1, torch.inf], [torch.nan, 1]]))
    with pytest.raises(ValueError, match="the word 'b' appears twice"):
        check_vectors(["a", "b", "c", "b", "c"], torch.ones(5, 1))
    with pytest.raises(ValueError, match=r"the word '\[UNK\]' appears twice or is reserved"):
        check_vectors(["[UNK]", "b", "b"], torch.ones(3, 1))
