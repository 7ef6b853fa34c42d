"""Builds a text tower of static word vectors and positions, with its tokenizer, in a folder that `compose` accepts."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ...configuration import PlaitConfig, PlaitTextConfig
from ...modeling import PlaitModel

PAD_TOKEN, UNKNOWN_TOKEN = "[PAD]", "[UNK]"


def save_word_tower(
    vectors: str | PathLike[str] | np.ndarray | Tensor,
    folder: str | PathLike[str],
    vocabulary: Sequence[str] | None = None,
    *,
    max_length: int = 128,
    lowercase: bool = True,
    limit: int | None = None,
) -> PlaitModel:
    """Saves a text tower whose tokens are word vectors plus a learned position (Mikolov et al. 2013,
    https://arxiv.org/abs/1301.3781; Pennington et al. 2014, GloVe), with a tokenizer that splits at spaces and
    punctuation.

        save_word_tower("glove.6B.100d.txt", "glove-tower", limit=50_000)
        model = PlaitForClassification.compose(text="glove-tower", image=...)
        processor = PlaitProcessor.compose(text="glove-tower", image=...)

    Args:
        vectors: a text file with a word and its numbers on each line (a first line of two numbers, as in word2vec
            files, is skipped), or a matrix (words, width) with its `vocabulary`.
        folder: where the model and the tokenizer are saved.
        vocabulary: the words of a matrix, one per row.
        max_length: the largest number of words of a text.
        lowercase: whether texts are lowercased before their words are looked up.
        limit: number of words to read from the start of the file; default: all.

    An unknown word has the mean of all vectors, padding is zero, positions are initialized near zero.

    Raises:
        ValueError: lines with different numbers of values, different numbers of words and vectors, a repeated word, or
            vectors that are not finite.
    """
    if isinstance(vectors, (str, PathLike)):
        words, matrix = read_vectors(Path(vectors), limit)
    else:
        words, matrix = list(vocabulary or ()), torch.as_tensor(vectors, dtype=torch.float32)
    check_vectors(words, matrix)
    config = PlaitTextConfig(
        vocab_size=len(words) + 2,
        hidden_size=matrix.shape[1],
        num_attention_heads=1,
        num_hidden_layers=0,
        output_norm=False,
        max_position_embeddings=max_length,
        pad_token_id=0,
        pooling="mean",
    )
    model = PlaitModel(PlaitConfig(text_config=config, pad_token_id=0))
    table = torch.cat((torch.zeros(1, matrix.shape[1]), matrix.mean(dim=0, keepdim=True), matrix))
    with torch.no_grad():
        model.get_input_embeddings().get_parameter("weight").copy_(table)
    model.save_pretrained(folder)
    build_word_tokenizer(words, max_length, lowercase).save_pretrained(str(folder))
    return model.eval()


def read_vectors(file: Path, limit: int | None) -> tuple[list[str], Tensor]:
    """Reads words and their vectors, (words, width), from a text file; raises ValueError for lines that differ."""
    words: list[str] = []
    rows: list[np.ndarray] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            word, *values = line.rstrip().split(" ")
            if number == 1 and len(values) == 1:  # the header: number of words and width
                continue
            if rows and len(values) != len(rows[0]):
                raise ValueError(f"{file}, line {number}: {len(values)} numbers, the first word has {len(rows[0])}")
            words.append(word)
            rows.append(np.array(values, dtype=np.float32))
            if len(words) == limit:
                break
    if not rows:
        raise ValueError(f"{file} has no word vectors: each line must have a word and its numbers")
    return words, torch.from_numpy(np.stack(rows))


def check_vectors(words: Sequence[str], matrix: Tensor) -> None:
    """Raises ValueError unless there is one finite vector for each word, and no word appears twice."""
    if matrix.ndim != 2 or len(words) != len(matrix) or not len(words):
        raise ValueError(
            f"vectors of shape {tuple(matrix.shape)} and {len(words)} words do not match: pass (words, width)"
        )
    if not bool(matrix.isfinite().all()):
        row = int((~matrix.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"the vector of {words[row]!r} is not finite: remove the word or repair its vector")
    if len({*words, PAD_TOKEN, UNKNOWN_TOKEN}) < len(words) + 2:
        twice = next(
            word for number, word in enumerate(words) if word in words[:number] or word in (PAD_TOKEN, UNKNOWN_TOKEN)
        )
        raise ValueError(f"the word {twice!r} appears twice or is reserved: give each word one vector")


def build_word_tokenizer(words: Sequence[str], max_length: int, lowercase: bool) -> PreTrainedTokenizerFast:
    """Builds a tokenizer that splits at spaces and punctuation and looks up each word's id."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    numbers = {word: number for number, word in enumerate((PAD_TOKEN, UNKNOWN_TOKEN, *words))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN_TOKEN))
    cases = [normalizers.Lowercase()] if lowercase else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *cases])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        pad_token=PAD_TOKEN,
        unk_token=UNKNOWN_TOKEN,
    )
