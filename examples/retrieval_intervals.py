"""Recall of a trained retrieval model with 95 % bootstrap intervals over the rows of a table:

python examples/retrieval_intervals.py RUN FILE.parquet --image image --text captions
"""

import argparse
from typing import Any

import numpy as np
from datasets import Dataset, Image

from plait import PlaitForRetrieval, PlaitProcessor
from plait.training.retrieval_metrics import DEPTHS, ranks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("file")
    parser.add_argument("--image", default="image")
    parser.add_argument("--text", default="captions")
    options = parser.parse_args()
    rows: Any = Dataset.from_parquet(options.file).cast_column(options.image, Image())
    model = PlaitForRetrieval.from_pretrained(options.run)
    processor = PlaitProcessor.from_pretrained(options.run)
    texts = [text for texts in rows[options.text] for text in texts]
    owner = np.repeat(np.arange(len(rows)), [len(texts) for texts in rows[options.text]])
    words = model.encode(texts, processor, "text")
    shown = model.encode([image.convert("RGB") for image in rows[options.image]], processor, "image")
    own_texts = [np.flatnonzero(owner == row).tolist() for row in range(len(rows))]
    report("text to image", ranks(words, shown, [[row] for row in owner.tolist()]), owner)
    report("image to text", ranks(shown, words, own_texts), np.arange(len(rows)))


def report(title: str, found: np.ndarray, owner: np.ndarray) -> None:
    """Rows are drawn with all of their texts, 10,000 times; what is searched stays whole."""
    count = int(owner.max()) + 1
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=10_000)[:, owner]
    for depth in DEPTHS:
        hits = found <= depth
        low, high = np.quantile((weights * hits).sum(1) / weights.sum(1), [0.025, 0.975])
        print(f"{title} R@{depth} {hits.mean():.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
