"""Metrics of generated text over a corpus, updated batch by batch with strings.

Higher is better in all of them. None needs logits: a metric keeps the score of each row, or the strings if the score
depends on the whole corpus.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from itertools import zip_longest
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .base import expect_known, expect_rows
from .cider import cider_d
from .text_answers import exact_match, token_f1, vqa_accuracy

Score = Callable[[str, Sequence[str]], float]


class TextMetric(Protocol):
    """One metric of TEXT_METRICS, built anew for each evaluation."""

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds a batch: a prediction and its references for every row.

        Raises:
            ValueError: the lengths differ, or a row has no reference.
        """
        ...

    def compute(self) -> dict[str, float]:
        """Returns `{name: value}` over all rows so far.

        Raises:
            ValueError: no row was added.
        """
        ...


@runtime_checkable
class RowTextMetric(TextMetric, Protocol):
    """A text metric that scores every row by itself."""

    def compute_per_row(self) -> np.ndarray:
        """Returns the score of every row, (rows,), in the order of adding."""
        ...


class RowMean:
    """The mean of a score that is computed for each row by itself; only the scores are kept."""

    def __init__(self, name: str, score: Score) -> None:
        self.name, self.score = name, score
        self.scores: list[float] = []

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Scores the rows of a batch and adds the scores."""
        _expect_pairs(predictions, references)
        self.scores += map(self.score, predictions, references)

    def compute_per_row(self) -> np.ndarray:
        """Returns the score of every row, (rows,), in the order of adding."""
        expect_rows(len(self.scores))
        return np.array(self.scores)

    def compute(self) -> dict[str, float]:
        """Returns `{name: mean}`."""
        return {self.name: float(self.compute_per_row().mean())}


class Corpus:
    """The predictions and references of a corpus, kept as strings."""

    def __init__(self) -> None:
        self.predictions: list[str] = []
        self.references: list[list[str]] = []

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds a batch."""
        _expect_pairs(predictions, references)
        self.predictions += predictions
        self.references += map(list, references)


class Cider:
    """The mean CIDEr-D, 0..10 (see `cider_d`); document frequencies are those of all references added."""

    def __init__(self) -> None:
        self.corpus = Corpus()

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds a batch, kept as strings."""
        self.corpus.update(predictions, references)

    def compute_per_row(self) -> np.ndarray:
        """Returns the score of every row, (rows,), in the order of adding."""
        expect_rows(len(self.corpus.predictions))
        return cider_d(self.corpus.predictions, self.corpus.references)

    def compute(self) -> dict[str, float]:
        """Returns `{"cider": mean}`."""
        return {"cider": float(self.compute_per_row().mean())}


class SacreBleu:
    """A corpus metric of sacrebleu, 0..100, with any number of references a row."""

    def __init__(self, name: str, metric: Any) -> None:
        self.name, self.metric = name, metric
        self.corpus = Corpus()

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds a batch, kept as strings."""
        self.corpus.update(predictions, references)

    def compute(self) -> dict[str, float]:
        """Returns `{name: score}`."""
        expect_rows(len(self.corpus.predictions))
        streams = list(zip_longest(*self.corpus.references))  # None where a row has fewer references than others
        return {self.name: float(self.metric.corpus_score(self.corpus.predictions, streams).score)}

    @property
    def signature(self) -> str:
        """sacrebleu's signature, to print with the score for reproducibility (https://arxiv.org/abs/1804.08771).

        Raises:
            ValueError: `compute` has not been called yet; the signature contains the number of references.
        """
        return str(self.metric.get_signature())


class Distinct:
    """The share of distinct predictions, 0..1: near 0, the model generates the same text for every row."""

    def __init__(self) -> None:
        self.count = 0
        self.seen: set[str] = set()

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds a batch; only distinct predictions are kept."""
        _expect_pairs(predictions, references)
        self.count += len(predictions)
        self.seen.update(predictions)

    def compute(self) -> dict[str, float]:
        """Returns `{"distinct": share}`."""
        expect_rows(self.count)
        return {"distinct": len(self.seen) / self.count}


class TextMetrics:
    """Several metrics of one corpus by their names in TEXT_METRICS, in one dict.

    Raises:
        ValueError: a name that is not in TEXT_METRICS, with the nearest and all valid ones.
        ImportError: the package of a metric is missing.
    """

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            expect_known("text metric", name, TEXT_METRICS)
        self.names = list(names)
        self.reset()

    def reset(self) -> None:
        """Forgets all rows."""
        self.metrics: dict[str, TextMetric] = {name: TEXT_METRICS[name]() for name in self.names}

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds a batch to each metric."""
        for metric in self.metrics.values():
            metric.update(predictions, references)

    def compute(self) -> dict[str, float]:
        """Returns `{name: value}` of all metrics."""
        return {name: value for metric in self.metrics.values() for name, value in metric.compute().items()}

    def compute_per_row(self) -> dict[str, np.ndarray]:
        """Returns `{name: (rows,) scores}` of the metrics that score every row, as `paired_bootstrap` takes them."""
        return {
            name: metric.compute_per_row() for name, metric in self.metrics.items() if isinstance(metric, RowTextMetric)
        }

    def collect_signatures(self) -> dict[str, str]:
        """Returns `{name: signature}` of the metrics of sacrebleu, after `compute`."""
        return {name: metric.signature for name, metric in self.metrics.items() if isinstance(metric, SacreBleu)}


def build_bleu(name: str = "bleu", tokenizer: str = "13a") -> SacreBleu:
    """Builds corpus BLEU, 0..100, case-sensitive; 0 if no prediction has four words. `tokenizer` is one of sacrebleu's.

    Source: Post 2018, https://arxiv.org/abs/1804.08771.
    """
    metrics = import_optional("sacrebleu.metrics")
    expect_known("sacrebleu tokenizer", tokenizer, metrics.BLEU.TOKENIZERS)
    return SacreBleu(name, metrics.BLEU(tokenize=tokenizer))


def build_chrf() -> SacreBleu:
    """Builds chrF2, 0..100: the F score of character n-grams up to six. Source: https://aclanthology.org/W15-3049."""
    return SacreBleu("chrf", import_optional("sacrebleu.metrics").CHRF())


def build_rouge(name: str) -> RowMean:
    """Builds a ROUGE F score of the rouge-score package, 0..1, of the best reference.

    No stemming; a word is a run of a-z and 0-9, so other scripts score 0. rougeLsum treats each line as a sentence.
    Source: Lin 2004, https://aclanthology.org/W04-1013.
    """
    scorer = import_optional("rouge_score.rouge_scorer").RougeScorer([name])
    return RowMean(name, lambda prediction, answers: float(scorer.score_multi(answers, prediction)[name].fmeasure))


def import_optional(module: str) -> ModuleType:
    """Imports a module of a package that text metrics need. Raises ImportError with the extra that brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this metric needs {module.split('.')[0]}: pip install plait[text]") from error


def _expect_pairs(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions, but references for {len(references)} rows: give a list of references for "
            "each prediction"
        )
    for row, answers in enumerate(references):
        if isinstance(answers, str):
            raise ValueError(f"row {row} of the batch: references are a list of strings, not the string {answers!r}")
        if not len(answers):
            raise ValueError(f"row {row} of the batch has no reference: give each row at least one")


# sacrebleu's tokenizers other than the default 13a: characters, all Unicode punctuation, Chinese, none (already split)
BLEU_TOKENIZERS = ("char", "intl", "zh", "none")
TEXT_METRICS: dict[str, Callable[[], TextMetric]] = {
    "bleu": build_bleu,
    **{f"bleu_{tokenizer}": partial(build_bleu, f"bleu_{tokenizer}", tokenizer) for tokenizer in BLEU_TOKENIZERS},
    "chrf": build_chrf,
    **{name: partial(build_rouge, name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    "cider": Cider,
    "exact_match": partial(RowMean, "exact_match", exact_match),
    "token_f1": partial(RowMean, "token_f1", token_f1),
    "vqa_accuracy": partial(RowMean, "vqa_accuracy", vqa_accuracy),
    "distinct": Distinct,
}
