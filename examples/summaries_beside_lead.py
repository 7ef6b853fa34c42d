"""Is a summary better than the first lines? `python examples/summaries_beside_lead.py SUMMARIES DATA`.

SUMMARIES is what `plait predict RUN --data DATA --output SUMMARIES` wrote (.jsonl, for some or all rows of DATA), DATA
a parquet file with the columns `dialogue` (a line an utterance) and `summaries` (lists of references). ROUGE F scores
of the best reference stand beside those of the first one, two and three utterances and of the longest one, with 95 %
bootstrap intervals over the rows, those of the differences paired.
"""

import argparse
import json
from pathlib import Path

import pyarrow.parquet as parquet

METRICS = ("rouge1", "rouge2", "rougeL")


def leads(dialogue: str) -> dict[str, str]:
    """What one would write without a model."""
    lines = [line for line in dialogue.splitlines() if line.strip()]
    first = {f"lead_{count}": " ".join(lines[:count]) for count in (1, 2, 3)}
    return {**first, "longest": max(lines, key=lambda line: len(line.split()))}


def main() -> None:
    from plait.training.metrics.per_row import RowScores, collect_text_scores, compare_rows, format_intervals
    from plait.training.metrics.text import TextMetrics

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summaries", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    predicted = [json.loads(line) for line in options.summaries.read_text().splitlines()]
    known = {row["dialogue"]: row["summaries"] for row in parquet.read_table(options.data).to_pylist()}
    written = [row["generated_text"] for row in predicted]
    references = [known[row["prompt"]] for row in predicted]

    def rows(texts: list[str]) -> RowScores:
        metrics = TextMetrics(METRICS)
        metrics.update(texts, references)
        return collect_text_scores(metrics)

    guesses = [leads(row["prompt"]) for row in predicted]
    others = {name: rows([guess[name] for guess in guesses]) for name in guesses[0]}
    print(format_intervals(compare_rows(rows(written), others)))
    words = sum(len(text.split()) for text in written) / len(written)
    print(f"{len(written)} rows, {words:.1f} words a summary, {len(set(written)) / len(written):.3f} distinct")


if __name__ == "__main__":
    main()
