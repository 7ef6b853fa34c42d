"""CIDEr-D, the agreement of a caption with its references, in plain Python."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MAX_NGRAM = 4

CLITICS = r"n't\b|'(?:s|m|d|re|ve|ll)\b"
CLITIC = re.compile(rf"(?<=\w)({CLITICS})")
TWO_WORDS = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "gimme": "gim me",
    "lemme": "lem me",
}
TWO_WORD = re.compile(rf"\b({'|'.join(TWO_WORDS)})\b")
TOKEN = re.compile(
    rf"{CLITICS}"
    r"|'\d\ds?\b"  # '90s
    r"|(?:[a-z]\.){2,}|\b(?:mr|mrs|ms|dr|st|jr|sr|vs|etc)\."  # u.s., dr.
    r"|\d+(?:[.,:/]\d+)+"  # 1,000 and 3:30
    r"|\w+(?:[-./'&@]\w+)*"  # t-shirt, o'clock
    r"|\.{2,}|-{2,}|[?!]+|\S"
)
PUNCTUATION = re.compile(r"[.,:;\"'`‘“”…–—-]+|[?!]")
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


class CaptionVectors(NamedTuple):
    """A caption as tf-idf vectors: `length` in words, and for n = 1 to 4 the weight of every n-gram."""

    length: int
    vectors: list[dict[tuple[str, ...], float]]


def split_caption_words(text: str) -> list[str]:
    """Splits a caption into words as the COCO evaluation does: lower case, split as in the Penn Treebank ("do n't",
    "dog 's", "can not"), punctuation left out.

    A bracket stays as a word ("-lrb-"), as in that evaluation. Its tokenizer, Stanford's, needs Java; this one differs:
    only a few abbreviations keep their period, and addresses, dates and rare contractions may be split differently.
    """
    text = CLITIC.sub(r" \1", text.lower().replace("’", "'"))
    text = TWO_WORD.sub(lambda found: TWO_WORDS[found[0]], text)
    tokens = (str(found[0]) for found in TOKEN.finditer(text))
    return [BRACKETS.get(token, token) for token in tokens if not PUNCTUATION.fullmatch(token)]


def cider_d(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    sigma: float = 6.0,
    corpus: tuple[Mapping[tuple[str, ...], int], int] | None = None,
) -> np.ndarray:
    """Computes the CIDEr-D of every row, (rows,), 0..10, as the COCO evaluation gives it; papers print 100 times this.

    The weight of an n-gram is its count times log(rows / rows whose references have it), so a corpus of one row scores
    0. A row's score is 10 times the mean, over n = 1 to 4 and over its references, of the clipped cosine of prediction
    and reference times exp(-(difference in words)^2 / (2 sigma^2)). A prediction of at least 4 words that equals every
    reference scores 10.

    corpus: document frequencies and the number of rows that they were counted in; default: those of `references`.

    Source: Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, section 5 and the CIDEr-D variant.
    """
    frequencies, rows = (count_document_frequencies(references), len(references)) if corpus is None else corpus
    scores = np.zeros(len(references))
    for row, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        candidate = compute_tfidf(prediction, frequencies, rows)
        agreement = [
            _compute_similarity(candidate, compute_tfidf(answer, frequencies, rows), sigma) for answer in answers
        ]
        scores[row] = 10 * math.fsum(agreement) / len(agreement)
    return scores


def count_document_frequencies(references: Sequence[Sequence[str]]) -> Counter[tuple[str, ...]]:
    """Counts for every n-gram the rows that have it in any reference."""
    frequencies = Counter()
    for answers in references:
        frequencies.update({gram for answer in answers for gram in _count_ngrams(split_caption_words(answer))})
    return frequencies


def compute_tfidf(text: str, frequencies: Mapping[tuple[str, ...], int], rows: int) -> CaptionVectors:
    """Computes the tf-idf vectors of a caption; an n-gram in no reference has the weight of one in a single row."""
    words = split_caption_words(text)
    vectors = [{} for _ in range(MAX_NGRAM)]
    for gram, count in _count_ngrams(words).items():
        vectors[len(gram) - 1][gram] = count * math.log(rows / max(1, frequencies.get(gram, 0)))
    return CaptionVectors(len(words), vectors)


def _count_ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    sizes = range(1, MAX_NGRAM + 1)
    return Counter(tuple(words[start : start + n]) for n in sizes for start in range(len(words) - n + 1))


def _compute_similarity(candidate: CaptionVectors, reference: CaptionVectors, sigma: float) -> float:
    penalty = math.exp(-((candidate.length - reference.length) ** 2) / (2 * sigma**2))
    cosines = map(_compute_clipped_cosine, candidate.vectors, reference.vectors)
    return penalty * math.fsum(cosines) / MAX_NGRAM


def _compute_clipped_cosine(
    candidate: Mapping[tuple[str, ...], float], reference: Mapping[tuple[str, ...], float]
) -> float:
    norm = math.hypot(*candidate.values()) * math.hypot(*reference.values())
    shared = [(weight, reference[gram]) for gram, weight in candidate.items() if gram in reference]
    # clipped, so that repeating an n-gram more often than the reference does not raise the score
    return math.fsum(min(ours, theirs) * theirs for ours, theirs in shared) / norm if norm else 0.0
