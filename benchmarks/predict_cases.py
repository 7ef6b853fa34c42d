"""`plait predict` beside a transformers pipeline in batches: a table in, the table with its answers out."""

import csv
import math
from pathlib import Path

import torch
import transformers as hf
from datasets import load_dataset
from paired import Row, measure_pairs
from process_cases import PEERS, Program


def save_classifier(encoder: str, labels: int, folder: Path) -> str:
    """Saves an encoder with a new head of some labels and its tokenizer, as transformers does."""
    torch.manual_seed(0)
    hf.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=labels).save_pretrained(folder)
    hf.AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return str(folder)


def write_texts(data: str, text: str, rows: int, file: Path) -> str:
    """Writes the texts of all splits to a csv file, from the start again until there are enough."""
    found = [row for split in load_dataset("parquet", data_files=f"{data}/*.parquet").values() for row in split[text]]
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, ["text"])
        writer.writeheader()
        writer.writerows({"text": found[row % len(found)]} for row in range(rows))
    return str(file)


class TableProgram(Program):
    """A command that writes a table, whose answers are kept."""

    def read_metric(self, folder: Path, output: str) -> float:
        """Keeps the table's label and its score by row, and returns the number of rows."""
        with folder.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        label = next(name for name in rows[0] if name in ("label", "predicted_label"))
        self.answers = [(row[label], float(row["score"])) for row in rows]
        return float(len(rows))


def compare_answers(ours: TableProgram, peer: TableProgram) -> str:
    """Checks that labels are equal and scores differ by rounding alone."""
    worst = 0.0
    for (label, score), (other, found) in zip(ours.answers, peer.answers, strict=True):
        worst = max(worst, abs(score - found) if label == other else math.inf)
    if worst > 1e-4:
        raise SystemExit(f"predict: labels or scores differ (by {worst:.1e})")
    return f"labels equal, scores within {worst:.0e}"


def predict_table(encoder: str, data: str, text: str, count: int, rounds: int, work: Path) -> list[Row]:
    """Measures both over one table, with loading and writing."""
    model = save_classifier(encoder, 3, work / "classifier")
    table = write_texts(data, text, count, work / "texts.csv")
    ours = ["-m", "plait", "predict", model, "--data", table, "--max_length=128", "--output", "{output}.csv"]
    peer = [str(PEERS), "predict", "--model", model, "--data", table, "--output", "{output}.csv"]
    sides = TableProgram(ours, "rows"), TableProgram(peer, "rows")
    pairs = measure_pairs(f"predict {count:,} rows", *sides, rounds)
    return [Row(f"predict {count:,} rows", "pipeline, batches of 32", *pairs, 1.5, compare_answers(*sides))]
