"""Metrics of generated text over a corpus, updated batch by batch with strings.

More is better in all of them. None needs logits: what a metric keeps of a row is its score, or the strings where the
score depends on the whole corpus.
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
    """One metric of TEXT_METRICS, made anew for each evaluation."""

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch: a prediction and its references for every row.

        Raises:
            ValueError: lengths differ, or a row has no reference.
        """
        ...

    def compute(self) -> dict[str, float]:
        """`{name: value}` over all rows so far.

        Raises:
            ValueError: there are none.
        """
        ...


@runtime_checkable
class RowTextMetric(TextMetric, Protocol):
    """A text metric in which every row has a score by itself."""

    def compute_per_row(self) -> np.ndarray:
        """Returns (rows,): every row's score, in the order of adding."""
        ...


class RowMean:
    """The mean of a score that each row has by itself; only the scores are kept."""

    def __init__(self, name: str, score: Score) -> None:
        self.name, self.score = name, score
        self.scores: list[float] = []

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, scored at once."""
        _expect_pairs(predictions, references)
        self.scores += map(self.score, predictions, references)

    def compute_per_row(self) -> np.ndarray:
        """(rows,): every row's score, in the order of adding."""
        expect_rows(len(self.scores))
        return np.array(self.scores)

    def compute(self) -> dict[str, float]:
        """`{name: mean}`."""
        return {self.name: float(self.compute_per_row().mean())}


class Corpus:
    """Predictions and references as strings."""

    def __init__(self) -> None:
        self.predictions: list[str] = []
        self.references: list[list[str]] = []

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, kept as it is."""
        _expect_pairs(predictions, references)
        self.predictions += predictions
        self.references += map(list, references)


class Cider:
    """CIDEr-D, 0 to 10 (`cider_d` says how); document frequencies are those of all references added."""

    def __init__(self) -> None:
        self.corpus = Corpus()

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, kept as strings."""
        self.corpus.update(predictions, references)

    def compute_per_row(self) -> np.ndarray:
        """(rows,): every row's score, in the order of adding."""
        expect_rows(len(self.corpus.predictions))
        return cider_d(self.corpus.predictions, self.corpus.references)

    def compute(self) -> dict[str, float]:
        """`{"cider": mean}`."""
        return {"cider": float(self.compute_per_row().mean())}


class SacreBleu:
    """A corpus metric of sacrebleu, 0 to 100, with as many references a row as there are."""

    def __init__(self, name: str, metric: Any) -> None:
        self.name, self.metric = name, metric
        self.corpus = Corpus()

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, kept as strings."""
        self.corpus.update(predictions, references)

    def compute(self) -> dict[str, float]:
        """`{name: score}`."""
        expect_rows(len(self.corpus.predictions))
        streams = list(zip_longest(*self.corpus.references))  # None where a row has fewer references than others
        return {self.name: float(self.metric.corpus_score(self.corpus.predictions, streams).score)}

    @property
    def signature(self) -> str:
        """What to print beside the score, so that others can repeat it (https://arxiv.org/abs/1804.08771).

        Raises:
            ValueError: nothing has been computed yet; the number of references belongs to it.
        """
        return str(self.metric.get_signature())


class Distinct:
    """The share of distinct predictions, above 0 to 1: near 0, the model says the same for every row."""

    def __init__(self) -> None:
        self.count = 0
        self.seen: set[str] = set()

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, of which the new predictions are kept."""
        _expect_pairs(predictions, references)
        self.count += len(predictions)
        self.seen.update(predictions)

    def compute(self) -> dict[str, float]:
        """`{"distinct": share}`."""
        expect_rows(self.count)
        return {"distinct": len(self.seen) / self.count}


class TextMetrics:
    """Several metrics of one corpus by their names in TEXT_METRICS, in one dict.

    Raises:
        ValueError: a name that is not in TEXT_METRICS, with the nearest and all valid ones.
        ImportError: the package that computes it is missing.
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
        """One more batch, for each of them."""
        for metric in self.metrics.values():
            metric.update(predictions, references)

    def compute(self) -> dict[str, float]:
        """`{name: value}` for each of them."""
        return {name: value for metric in self.metrics.values() for name, value in metric.compute().items()}

    def compute_per_row(self) -> dict[str, np.ndarray]:
        """`{name: (rows,) scores}` for those that have a score for each row, as `paired_bootstrap` takes them."""
        return {
            name: metric.compute_per_row() for name, metric in self.metrics.items() if isinstance(metric, RowTextMetric)
        }

    def collect_signatures(self) -> dict[str, str]:
        """`{name: signature}` of those computed by sacrebleu, once they are."""
        return {name: metric.signature for name, metric in self.metrics.items() if isinstance(metric, SacreBleu)}


def build_bleu(name: str = "bleu", tokenizer: str = "13a") -> SacreBleu:
    """Corpus BLEU, 0 to 100, case kept; 0 where no prediction has four words. `tokenizer` is one of sacrebleu's.

    Source: Post 2018, https://arxiv.org/abs/1804.08771.
    """
    metrics = _import_optional("sacrebleu.metrics")
    expect_known("sacrebleu tokenizer", tokenizer, metrics.BLEU.TOKENIZERS)
    return SacreBleu(name, metrics.BLEU(tokenize=tokenizer))


def build_chrf() -> SacreBleu:
    """chrF2, 0 to 100: the F score of character n-grams up to six. Source: https://aclanthology.org/W15-3049."""
    return SacreBleu("chrf", _import_optional("sacrebleu.metrics").CHRF())


def build_rouge(name: str) -> RowMean:
    """A ROUGE F score of the rouge-score package, 0 to 1, of the best reference.

    No stemming; a word is a run of a-z and 0-9, so other scripts score 0. rougeLsum takes each line as a sentence.
    Source: Lin 2004, https://aclanthology.org/W04-1013.
    """
    scorer = _import_optional("rouge_score.rouge_scorer").RougeScorer([name])
    return RowMean(name, lambda prediction, answers: float(scorer.score_multi(answers, prediction)[name].fmeasure))


def _import_optional(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this metric needs {module.split('.')[0]}: pip install plait[text]") from error


def _expect_pairs(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, but references for {len(references)} rows")
    for row, answers in enumerate(references):
        if isinstance(answers, str):
            raise ValueError(f"row {row} of the batch: references are a list of strings, not the string {answers!r}")
        if not len(answers):
            raise ValueError(f"row {row} of the batch has no reference")


# other tokenizers than 13a: characters, all of Unicode's punctuation, Chinese, none (already split)
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
