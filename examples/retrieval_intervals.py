"""Recall of trained retrieval models with 95 % bootstrap intervals over the rows of a table, and of several trainings
(other seeds) their mean, with intervals over rows and trainings:

    python examples/retrieval_intervals.py RUN [RUN ...] FILE.parquet --image image --text captions
"""

import argparse
from typing import Any

import numpy as np
from datasets import Dataset, Image

from plait import PlaitForRetrieval, PlaitProcessor
from plait.training.metrics.retrieval import DEPTHS, compute_ranks

DRAWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("file")
    parser.add_argument("--image", default="image")
    parser.add_argument("--text", default="captions")
    options = parser.parse_args()
    rows: Any = Dataset.from_parquet(options.file).cast_column(options.image, Image())
    texts = [text for texts in rows[options.text] for text in texts]
    owner = np.repeat(np.arange(len(rows)), [len(texts) for texts in rows[options.text]])
    own_texts = [np.flatnonzero(owner == row).tolist() for row in range(len(rows))]
    pictures = [image.convert("RGB") for image in rows[options.image]]
    found: dict[str, list[np.ndarray]] = {"text to image": [], "image to text": []}
    for run in options.runs:
        model, processor = PlaitForRetrieval.from_pretrained(run), PlaitProcessor.from_pretrained(run)
        words, shown = model.encode(texts, processor, "text"), model.encode(pictures, processor, "image")
        found["text to image"].append(compute_ranks(words, shown, [[row] for row in owner.tolist()]))
        found["image to text"].append(compute_ranks(shown, words, own_texts))
    owners = {"text to image": owner, "image to text": np.arange(len(rows))}
    for direction, each in found.items():
        for run, of_run in zip(options.runs, each, strict=True):
            report(f"{run}: {direction}", [of_run], owners[direction])
        if len(each) > 1:
            report(f"mean of {len(each)}: {direction}", each, owners[direction])


def report(title: str, found: list[np.ndarray], owner: np.ndarray) -> None:
    """Rows are drawn with all of their texts, and trainings; what is searched stays whole."""
    generator, count = np.random.default_rng(0), int(owner.max()) + 1
    weights = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS)[:, owner]
    runs = generator.multinomial(len(found), np.full(len(found), 1 / len(found)), size=DRAWS) / len(found)
    for depth in DEPTHS:
        hits = np.stack([each <= depth for each in found])
        drawn = (weights @ hits.T * runs).sum(1) / weights.sum(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        print(f"{title} R@{depth} {hits.mean():.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
