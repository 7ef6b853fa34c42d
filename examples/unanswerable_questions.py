"""Questions that their text does not answer: `python examples/unanswerable_questions.py FILE OUTPUT`.

FILE holds questions in one of the forms that `plait train question_answering` reads, without splits of its own. It is
split by context, as `--data.test_fraction 0.2 --data.validation_fraction 0.1` and the seed 0 split it; into OUTPUT go
train, validation and test, each with every question twice: about its own context, and about another context of the same
split that does not hold its answer, where the right answer is none (as in SQuAD 2.0, but easier: nobody wrote these
questions to mislead).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from plait.training.data.loading import load_data
from plait.training.data.question_windows import normalize_answers
from plait.training.recipes.schema import DataRecipe

COLUMNS = ("question", "context", "answers", "answer_start")
NOTHING: dict[str, list[Any]] = {"text": [], "answer_start": []}


def doubled(data: Dataset, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Every row, and its question about a context that does not answer it."""
    rows: list[Any] = [normalize_answers(dict(row)) for row in data]
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    found = []
    for row in rows:
        texts = row["answers"]["text"]
        other = next(
            contexts[place]
            for place in generator.permutation(len(contexts))
            if contexts[place] != row["context"] and not any(text in contexts[place] for text in texts)
        )
        for context, answers in ((row["context"], row["answers"]), (other, NOTHING)):
            found.append({"question": row["question"], "context": context, "answers": answers})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    recipe = DataRecipe(source=options.file, test_fraction=0.2, validation_fraction=0.1)
    options.output.mkdir(parents=True, exist_ok=True)
    for split, data in load_data(recipe, seed=0, needs_labels=False, roles=COLUMNS).splits.items():
        rows = doubled(data, np.random.default_rng(0))
        Dataset.from_list(rows).to_parquet(options.output / f"{split}.parquet")
        print(f"{options.output / split}.parquet: {len(rows)} questions, half of them without an answer")


if __name__ == "__main__":
    main()
