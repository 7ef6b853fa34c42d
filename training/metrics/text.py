"""Metrics of generated text over a corpus, gathered batch by batch from strings, and their paired bootstrap.

More is better in all of them. None needs logits: what a metric keeps of a row is its score, or the strings where the
score depends on the whole corpus.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from itertools import zip_longest
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from .cider import cider_d

SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b")
SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)

VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
VQA_PERIOD = re.compile(r"\.(?!\d)")
VQA_COMMA = re.compile(r"\d,\d")
VQA_ARTICLES = ("a", "an", "the")
VQA_NUMBERS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
# written without one of its apostrophes, each means the whole; the list and its gaps are the official evaluation's
VQA_WHOLE = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
VQA_CONTRACTIONS = {
    whole[:place] + whole[place + 1 :]: whole for whole in VQA_WHOLE for place, sign in enumerate(whole) if sign == "'"
} | {"somebody'd": "somebodyd"}

Score = Callable[[str, Sequence[str]], float]


class TextMetric(Protocol):
    """What every metric of TEXT_METRICS can do."""

    def add(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
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


class RowMean:
    """The mean of a score that each row has by itself; only the scores are kept."""

    def __init__(self, name: str, score: Score) -> None:
        self.name, self.score = name, score
        self.scores: list[float] = []

    def add(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, scored at once."""
        _expect_pairs(predictions, references)
        self.scores += map(self.score, predictions, references)

    def rows(self) -> np.ndarray:
        """(rows,): every row's score, in the order of adding."""
        _expect_rows(len(self.scores))
        return np.array(self.scores)

    def compute(self) -> dict[str, float]:
        """`{name: mean}`."""
        return {self.name: float(self.rows().mean())}


class Corpus:
    """Predictions and references as strings."""

    def __init__(self) -> None:
        self.predictions: list[str] = []
        self.references: list[list[str]] = []

    def add(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, kept as it is."""
        _expect_pairs(predictions, references)
        self.predictions += predictions
        self.references += map(list, references)


class Cider:
    """CIDEr-D, 0 to 10 (`cider_d` says how); document frequencies are those of all references added."""

    def __init__(self) -> None:
        self.corpus = Corpus()

    def add(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, kept as strings."""
        self.corpus.add(predictions, references)

    def rows(self) -> np.ndarray:
        """(rows,): every row's score, in the order of adding."""
        _expect_rows(len(self.corpus.predictions))
        return cider_d(self.corpus.predictions, self.corpus.references)

    def compute(self) -> dict[str, float]:
        """`{"cider": mean}`."""
        return {"cider": float(self.rows().mean())}


class SacreBleu:
    """A corpus metric of sacrebleu, 0 to 100, with as many references a row as there are."""

    def __init__(self, name: str, metric: Any) -> None:
        self.name, self.metric = name, metric
        self.corpus = Corpus()

    def add(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, kept as strings."""
        self.corpus.add(predictions, references)

    def compute(self) -> dict[str, float]:
        """`{name: score}`."""
        _expect_rows(len(self.corpus.predictions))
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

    def add(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, of which the new predictions are kept."""
        _expect_pairs(predictions, references)
        self.count += len(predictions)
        self.seen.update(predictions)

    def compute(self) -> dict[str, float]:
        """`{"distinct": share}`."""
        _expect_rows(self.count)
        return {"distinct": len(self.seen) / self.count}


class TextMetrics:
    """Several metrics of one corpus, in one dict."""

    def __init__(self, metrics: Mapping[str, TextMetric]) -> None:
        self.metrics = dict(metrics)

    def add(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """One more batch, for each of them."""
        for metric in self.metrics.values():
            metric.add(predictions, references)

    def compute(self) -> dict[str, float]:
        """`{name: value}` for each of them."""
        return {name: value for metric in self.metrics.values() for name, value in metric.compute().items()}

    def rows(self) -> dict[str, np.ndarray]:
        """`{name: (rows,) scores}` for those that have a score for each row, as `paired_bootstrap` takes them."""
        return {name: metric.rows() for name, metric in self.metrics.items() if isinstance(metric, RowMean | Cider)}

    def signatures(self) -> dict[str, str]:
        """`{name: signature}` of those computed by sacrebleu, once they are."""
        return {name: metric.signature for name, metric in self.metrics.items() if isinstance(metric, SacreBleu)}


class Interval(NamedTuple):
    """A mean difference and the ends of its 95 % interval."""

    difference: float
    low: float
    high: float


def text_metrics(names: Sequence[str]) -> TextMetrics:
    """Fresh metrics by their names in TEXT_METRICS.

    Raises:
        ValueError: a name that is not there, with the nearest and all valid ones.
        ImportError: the package that computes it is missing.
    """
    for name in names:
        _expect_known("text metric", name, TEXT_METRICS)
    return TextMetrics({name: TEXT_METRICS[name]() for name in names})


def paired_bootstrap(first: np.ndarray, second: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean of `first - second`, (rows,) scores of two systems on the same rows, and its percentile interval.

    Source: Koehn 2004, https://aclanthology.org/W04-3250.

    Raises:
        ValueError: the two differ in shape, or are not one non-empty column.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(f"a paired bootstrap needs two (rows,) of equal length, not {first.shape} and {second.shape}")
    differences = first - second
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(differences.size, size=differences.size) for _ in range(resamples))
    low, high = np.percentile([differences[rows].mean() for rows in drawn], [2.5, 97.5])
    return Interval(float(differences.mean()), float(low), float(high))


def bleu(name: str = "bleu", tokenizer: str = "13a") -> SacreBleu:
    """Corpus BLEU, 0 to 100, case kept; 0 where no prediction has four words. `tokenizer` is one of sacrebleu's.

    Source: Post 2018, https://arxiv.org/abs/1804.08771.
    """
    metrics = _optional("sacrebleu.metrics")
    _expect_known("sacrebleu tokenizer", tokenizer, metrics.BLEU.TOKENIZERS)
    return SacreBleu(name, metrics.BLEU(tokenize=tokenizer))


def chrf() -> SacreBleu:
    """chrF2, 0 to 100: the F score of character n-grams up to six. Source: https://aclanthology.org/W15-3049."""
    return SacreBleu("chrf", _optional("sacrebleu.metrics").CHRF())


def rouge(name: str) -> RowMean:
    """A ROUGE F score of the rouge-score package, 0 to 1, of the best reference.

    No stemming; a word is a run of a-z and 0-9, so other scripts score 0. rougeLsum takes each line as a sentence.
    Source: Lin 2004, https://aclanthology.org/W04-1013.
    """
    scorer = _optional("rouge_score.rouge_scorer").RougeScorer([name])
    return RowMean(name, lambda prediction, answers: float(scorer.score_multi(answers, prediction)[name].fmeasure))


def squad_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, single spaces, as SQuAD's evaluation compares answers."""
    return " ".join(SQUAD_ARTICLES.sub(" ", text.lower().translate(SQUAD_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 where any reference is the prediction after `squad_answer`, else 0. Source: https://arxiv.org/abs/1606.05250."""
    return float(squad_answer(prediction) in map(squad_answer, references))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """The best F1, 0 to 1, of the words of prediction and reference after `squad_answer`.

    Where either has no word left, it is 1 if both have none (as SQuAD 2.0 counts "no answer"), else 0.
    """
    return max(_f1(squad_answer(prediction).split(), squad_answer(reference).split()) for reference in references)


def vqa_answer(text: str) -> str:
    """An answer as the VQA evaluation compares it: lower case, number words as digits, without articles and
    punctuation, contractions with their apostrophe.

    Its oddities are kept: a sign inside a word becomes a space unless the answer has one beside a space, or a comma
    between digits; "none" is 0.
    """
    text = " ".join(text.split())
    joined = VQA_COMMA.search(text)
    cleaned = text
    for sign in VQA_PUNCTUATION:
        beside_space = f"{sign} " in text or f" {sign}" in text
        cleaned = cleaned.replace(sign, "" if joined or beside_space else " ")
    words = (VQA_NUMBERS.get(word, word) for word in VQA_PERIOD.sub("", cleaned).lower().split())
    return " ".join(VQA_CONTRACTIONS.get(word, word) for word in words if word not in VQA_ARTICLES)


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """min(matches / 3, 1), 0 to 1, averaged over leaving out each of ten (or more) human answers in turn.

    Fewer than ten are all used at once, and three of them (one of one, two of two) are enough: with one reference it
    is equality after `vqa_answer`. Both sides are always normalised in full; the official scripts leave references as
    they are where all humans agree, and the older ones never touch their articles and number words.

    Source: Antol et al. 2015, https://arxiv.org/abs/1505.00468; https://visualqa.org/evaluation.html.
    """
    count = len(references)
    matches = list(map(vqa_answer, references)).count(vqa_answer(prediction))
    if count < 10:
        return min(matches / min(count, 3), 1.0)
    with_one_less, with_all = min((matches - 1) / 3, 1.0), min(matches / 3, 1.0)
    return (matches * with_one_less + (count - matches) * with_all) / count


def _f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = (Counter(prediction) & Counter(reference)).total()
    return 2 * common / (len(prediction) + len(reference))


def _optional(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this metric needs {module.split('.')[0]}: pip install plait[text]") from error


def _expect_known(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"no {kind} {name!r}{hint} There are {', '.join(known)}")


def _expect_pairs(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, but references for {len(references)} rows")
    for row, answers in enumerate(references):
        if isinstance(answers, str):
            raise ValueError(f"row {row} of the batch: references are a list of strings, not the string {answers!r}")
        if not len(answers):
            raise ValueError(f"row {row} of the batch has no reference")


def _expect_rows(count: int) -> None:
    if not count:
        raise ValueError("no rows: nothing was added before the metric was computed")


# other tokenizers than 13a: characters, all of Unicode's punctuation, Chinese, none (already split)
BLEU_TOKENIZERS = ("char", "intl", "zh", "none")
TEXT_METRICS: dict[str, Callable[[], TextMetric]] = {
    "bleu": bleu,
    **{f"bleu_{tokenizer}": partial(bleu, f"bleu_{tokenizer}", tokenizer) for tokenizer in BLEU_TOKENIZERS},
    "chrf": chrf,
    **{name: partial(rouge, name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    "cider": Cider,
    "exact_match": partial(RowMean, "exact_match", exact_match),
    "token_f1": partial(RowMean, "token_f1", token_f1),
    "vqa_accuracy": partial(RowMean, "vqa_accuracy", vqa_accuracy),
    "distinct": Distinct,
}
