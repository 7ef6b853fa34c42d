"""Rewards by name: scores of texts that are compared with the references of their rows, or judged by a model or by a
function of the user."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...configuration.messages import suggest, to_one_line
from ...modeling.tasks.retrieval import PlaitForRetrieval
from ...processing import PlaitProcessor
from ..metrics.cider import cider_d, count_document_frequencies
from ..metrics.text import build_rouge, import_optional
from ..metrics.text_answers import exact_match, token_f1, vqa_accuracy
from ..recipes.errors import RecipeError

Rows = Sequence[Mapping[str, Any]]
Reward = Callable[[Sequence[str], Rows], Sequence[float]]
ReferenceScore = Callable[[str, Sequence[str]], float]


class ReferenceReward:
    """The score of each text beside the `references` of its row."""

    def __init__(self, score: ReferenceScore) -> None:
        self.score = score

    def __call__(self, texts: Sequence[str], rows: Rows) -> list[float]:
        """Scores texts: one number each."""
        return [self.score(text, row["references"]) for text, row in zip(texts, rows, strict=True)]


class CiderReward:
    """CIDEr-D / 10, 0 to 1 (see `cider_d`), with the document frequencies of the training references."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self.frequencies, self.rows = count_document_frequencies(references), len(references)

    def __call__(self, texts: Sequence[str], rows: Rows) -> list[float]:
        """Scores texts: one number each."""
        corpus = (self.frequencies, self.rows)
        return (cider_d(texts, [row["references"] for row in rows], corpus=corpus) / 10).tolist()


class SentenceScore:
    """A sentence score of sacrebleu, divided by 100."""

    def __init__(self, name: str) -> None:
        metrics = import_optional("sacrebleu.metrics")
        self.metric = metrics.CHRF() if name == "chrf" else metrics.BLEU(effective_order=True)

    def __call__(self, text: str, references: Sequence[str]) -> float:
        """Scores a text beside its references."""
        return float(self.metric.sentence_score(text, list(references)).score) / 100


class RougeScore:
    """ROUGE-L of the best reference (see `build_rouge`)."""

    def __init__(self) -> None:
        self.score = build_rouge("rougeL").score

    def __call__(self, text: str, references: Sequence[str]) -> float:
        """Scores a text beside its references."""
        return self.score(text, references)


class RetrievalReward:
    """The cosine, -1 to 1, of a text and of what its row shows, in the space of a retrieval model.

    Raises RecipeError for a folder that is no retrieval model with a text side.
    """

    def __init__(self, folder: str) -> None:
        try:
            self.model = PlaitForRetrieval.from_pretrained(folder).eval().requires_grad_(False)
            self.processor = PlaitProcessor.from_pretrained(folder)
        except (OSError, TypeError, ValueError) as error:
            raise RecipeError(f"reward.metrics: {folder} is no retrieval model ({to_one_line(error)})") from error
        sides = list(self.model.config.sides)
        if "text" not in sides or len(sides) != 2:
            raise RecipeError(f"reward.metrics: {folder} compares {' and '.join(sides)}: a text side is needed")
        self.other = next(side for side in sides if side != "text")

    def __call__(self, texts: Sequence[str], rows: Rows) -> list[float]:
        """Scores texts: one number each. A row is encoded once for all of its texts."""
        numbers: dict[int, int] = {}
        places = [numbers.setdefault(id(row), len(numbers)) for row in rows]
        distinct = list({id(row): row for row in rows}.values())
        shown = self.model.encode([row[self.other] for row in distinct], self.processor, side=self.other)
        written = self.model.encode([text or " " for text in texts], self.processor, side="text")
        return (shown[places] * written).sum(dim=1).tolist()


REFERENCE_SCORES: dict[str, Callable[[], ReferenceScore]] = {
    "bleu": lambda: SentenceScore("bleu"),
    "chrf": lambda: SentenceScore("chrf"),
    "rouge_l": RougeScore,
    "exact_match": lambda: exact_match,
    "token_f1": lambda: token_f1,
    "vqa_accuracy": lambda: vqa_accuracy,
}
REWARDS = ("cider", *REFERENCE_SCORES)


def build_reward(name: str, references: Callable[[], Sequence[Sequence[str]]]) -> Reward:
    """Builds the reward of a name: one of REWARDS, a folder of a retrieval model, or `module:function`.

    references: returns those of the training rows, which cider's weights of words come from.

    Raises RecipeError for a name that is none of these, with the nearest.
    """
    if name == "cider":
        return CiderReward(references())
    if name in REFERENCE_SCORES:
        return ReferenceReward(REFERENCE_SCORES[name]())
    if Path(name).is_dir():
        return RetrievalReward(name)
    if ":" in name:
        return import_function(name)
    raise RecipeError(
        f"reward.metrics: no reward {name!r}{suggest(name, REWARDS)}, or give the folder of a retrieval model or "
        "module:function"
    )


def import_function(name: str) -> Reward:
    """Imports `module:function`. Raises RecipeError if there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"reward.metrics: {name} cannot be imported ({to_one_line(error)})") from error
    if not callable(found):
        raise RecipeError(f"reward.metrics: {name} is {type(found).__name__}, not a function(texts, rows)")
    return cast("Reward", found)


def measure_repetition(text: str) -> float:
    """Returns the share, 0 to 1, of a text's trigrams of words that repeat an earlier one."""
    words = text.split()
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    count = sum(trigrams.values())
    return (count - len(trigrams)) / count if count else 0.0


def check_scores(name: str, scores: Sequence[float], count: int) -> np.ndarray:
    """Returns a reward's scores as an array, (texts,). Raises RecipeError for another number of them, or for one that
    is not finite."""
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (count,):
        raise RecipeError(f"reward {name}: {count} texts, but scores of shape {values.shape}: return one number each")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise RecipeError(f"reward {name}: the score of text {bad} is {values[bad]}: return finite numbers")
    return values
