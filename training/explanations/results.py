"""Explanations as data: how much each word, pixel, moment, frame or column adds to a score."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np

CONTENT_FILE, ARRAYS_FILE = "explanation.json", "explanation.npz"
ARRAYS = ("values", "times", "maps")


@dataclass
class Attribution:
    """What the parts of one input add to a score, in its unit (nats, unless the score is a number or a similarity);
    for the methods of attention, shares without a unit, 0 or more.

    Attributes:
        modality: "text", "image", "audio", "video" or "table".
        values: text: (words,); image: (height, width) of the image as it was given; audio: (segments,); video:
            (frames,); table: (columns,).
        words, spans: text: the words, and the characters (first, past-last) of each.
        times: audio: (segments + 1,) the edges of the segments; video: (frames,), in seconds (of a video without a
            known frame rate, the frames' numbers).
        maps: audio: (frequencies, times) for towers of spectrograms; video: (frames, height, width) as the model
            reads them.
        columns: table: the names of the columns.
    """

    modality: str
    values: np.ndarray
    words: list[str] | None = None
    spans: list[tuple[int, int]] | None = None
    times: np.ndarray | None = None
    maps: np.ndarray | None = None
    columns: list[str] | None = None

    @property
    def total(self) -> float:
        """The sum over all parts."""
        return float(self.values.sum(dtype=np.float64))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields that are set, arrays as nested lists."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Returns the attribution that `to_dict` describes."""
        arrays = {name: np.asarray(values[name], dtype=np.float32) for name in ARRAYS if name in values}
        spans = [(first, past) for first, past in values["spans"]] if "spans" in values else None
        return cls(**{**values, **arrays, "spans": spans})


@dataclass
class RowExplanation:
    """The explanation of one row.

    Attributes:
        target: what is explained: a class, a text, an answer, an output.
        score: its score, in the unit of `plait.modeling.attribution.target.score`.
        baseline_score: the score of the baselines (their mean, if there are several).
        attributions: by input: "text", "image" (several: "image.0", "image.1"), "question", ...
        completeness_error: score - baseline_score - the sum of all attributions, for the methods that promise 0 (with
            unlimited steps); None for the others.
    """

    target: str
    score: float
    baseline_score: float
    attributions: dict[str, Attribution]
    completeness_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, attributions as dicts."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**values, "attributions": {name: found.to_dict() for name, found in self.attributions.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Returns the explanation that `to_dict` describes."""
        found = {name: Attribution.from_dict(value) for name, value in values["attributions"].items()}
        return cls(**{**values, "attributions": found})


@dataclass
class Explanation(Sequence[RowExplanation]):
    """The explanations of several rows by one method: a list of `RowExplanation`.

    Attributes:
        rows: one explanation for each row.
        method, baselines, settings: how they were made; baselines by modality.
    """

    rows: list[RowExplanation]
    method: str
    baselines: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RowExplanation]:
        return iter(self.rows)

    def __getitem__(self, number: Any) -> Any:
        return self.rows[number]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as what JSON can hold."""
        own = {"method": self.method, "baselines": self.baselines, "settings": self.settings}
        return {**own, "rows": [row.to_dict() for row in self.rows]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Returns the explanations that `to_dict` describes."""
        return cls(**{**values, "rows": [RowExplanation.from_dict(row) for row in values["rows"]]})

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes explanation.json and, with the arrays, explanation.npz into the folder, which is made if needed."""
        content, arrays = self.to_dict(), {}
        for number, row in enumerate(content["rows"]):
            for name, found in row["attributions"].items():
                for part in [part for part in ARRAYS if part in found]:
                    key = f"{number}/{name}/{part}"
                    arrays[key], found[part] = np.asarray(found[part], dtype=np.float32), key
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / CONTENT_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        np.savez_compressed(Path(folder) / ARRAYS_FILE, **arrays)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Self:
        """Returns the explanations that `save` wrote. Raises FileNotFoundError for a folder without them."""
        content = json.loads((Path(folder) / CONTENT_FILE).read_text(encoding="utf-8"))
        with np.load(Path(folder) / ARRAYS_FILE) as arrays:
            for row in content["rows"]:
                for found in row["attributions"].values():
                    found |= {part: arrays[found[part]] for part in ARRAYS if part in found}
        return cls.from_dict(content)
