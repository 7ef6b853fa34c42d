"""What a model answered for each row of a split, and how each row scored; kept beside a run for its reports."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.labels import MULTI, REGRESSION, SINGLE
from ..metrics.per_row import RowScore, RowScores

TEXTS, ITEMS, OTHER = "texts", "items", "other"
CLASS_KINDS = (SINGLE, MULTI, REGRESSION)  # with the arrays truth and chosen
MOST_TEXTS = 2000  # generated texts that are kept


class GeneratedText(NamedTuple):
    """A generated text: the number of its row, the text, and the reference texts."""

    row: int
    text: str
    references: list[str]


@dataclass
class Answers:
    """The answers for one split.

    kind: the problem type of classes and numbers, TEXTS, ITEMS (of retrieval) or OTHER, of which metrics alone are
        known.
    count: number of rows.
    metrics: names of the metrics that are computed from `truth` and `chosen`.
    arrays: of classes and numbers `truth` and `chosen`, (rows,), or (rows, labels) of 0 and 1, and `confidence`, the
        probability of each chosen class or label; `groups`, (rows,), if rows are resampled in groups.
    scores: per-row scores of the other metrics.
    texts: generated texts, at most MOST_TEXTS at even distances.
    """

    kind: str
    count: int
    metrics: list[str] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    scores: RowScores = field(default_factory=dict)
    texts: list[GeneratedText] = field(default_factory=list)

    def save(self, file: Path) -> None:
        """Saves the answers as one .npz file."""
        head = {"kind": self.kind, "count": self.count, "metrics": self.metrics, "texts": self.texts}
        head["scores"] = {name: score.exponential for name, score in self.scores.items()}
        arrays: dict[str, Any] = {f"array.{name}": value for name, value in self.arrays.items()}
        for name, score in self.scores.items():
            arrays |= {f"totals.{name}": score.totals, f"weights.{name}": score.weights}
        text: Any = np.frombuffer(json.dumps(head, ensure_ascii=False).encode("utf-8", "surrogatepass"), np.uint8)
        np.savez_compressed(file, head=text, **arrays)

    @classmethod
    def load(cls, file: Path) -> "Answers":
        """Loads saved answers. Raises OSError, ValueError or KeyError for a file that is no such one."""
        with np.load(file, allow_pickle=False) as content:
            head = json.loads(content["head"].tobytes().decode("utf-8", "surrogatepass"))
            arrays = {name.partition(".")[2]: content[name] for name in content if name.startswith("array.")}
            scores = {
                name: RowScore(content[f"totals.{name}"], content[f"weights.{name}"], exponential)
                for name, exponential in head["scores"].items()
            }
        texts = [GeneratedText(*text) for text in head["texts"]]
        return cls(head["kind"], head["count"], head["metrics"], arrays, scores, texts)


def select_evenly(count: int, most: int) -> list[int]:
    """Returns at most `most` of the numbers below `count`, at even distances."""
    return [number * count // most for number in range(most)] if count > most else list(range(count))


def number_groups(groups: Sequence[Any] | None) -> Mapping[str, np.ndarray]:
    """Returns the array `groups`, (rows,), that numbers the groups of rows; none without groups."""
    if groups is None:
        return {}
    known: dict[Any, int] = {}
    return {"groups": np.array([known.setdefault(group, len(known)) for group in groups], dtype=np.int64)}
