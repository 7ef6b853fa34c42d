"""What lower precision costs and gains: accuracy, paired over the rows, size and time of every path, as tables.

    python benchmarks/quantization.py --classifier RUN [--classifier RUN --data FILE]
    python benchmarks/quantization.py --retrieval CHECKPOINT --texts FILE.parquet --column captions
    python benchmarks/quantization.py --language CHECKPOINT --texts FILE.parquet --column context

Weights are float32, bfloat16, int8 (a scale for each row), int8_dynamic (inputs of 8 bits too) and int4. A difference
is that to float32 on the same rows, with its 95 % interval over 2,000 resamples of them. Times are CPU time on one
thread, the least of three calls; of the rows of an evaluation one call.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoTokenizer

import plait
from plait import PlaitForCausalLM, PlaitForRetrieval, PlaitProcessor
from plait.training.data.media import NumberedRows
from plait.training.metrics.per_row import RowScore, build_perplexity_scores, compare_rows
from plait.training.metrics.retrieval import compute_ranks
from plait.training.prediction.sources import open_data
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import load_predictor, predict_batch

REPEATS, TEXTS, LENGTH = 3, 8, 256
NEW_TOKENS: dict[str, Any] = {"do_sample": False, "min_new_tokens": 17, "max_new_tokens": 17}
HALF = ("bfloat16", "float16")  # all weights of the model
KINDS = ("float32", *HALF, "int8", "int8_dynamic", "int4")


def convert(model: Any, kind: str, part: str) -> Any:
    """Returns the model with weights of a kind: of 16 bits all of them, in fewer bits the layers of a part."""
    if kind in HALF:
        return model.to(getattr(torch, kind))
    if kind != "float32":
        plait.quantize(model, {part: kind})
    return model


def measure_size(model: Any) -> float:
    """Saves the model and returns the size of its weights in MB."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / 1e6


def measure_seconds(call: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Returns the least CPU time of a few calls, in seconds, after one that is not counted."""
    call()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def format_score(name: str, score: RowScore, base: RowScore | None) -> str:
    """Returns two cells: a metric, and its difference to that of float32 with the interval."""
    if base is None:
        return f"{score.compute():.4f} | "
    minus = compare_rows({name: score}, {"float32": {name: base}})[name]["minus"]["float32"]
    return f"{score.compute():.4f} | {minus['value']:+.4f} ({minus['low']:+.4f} .. {minus['high']:+.4f})"


def print_head(metric: str, *columns: str) -> None:
    """Prints the head of a table."""
    cells = ["weights", metric, "minus float32 (95 %)", "MB", *columns]
    print(f"| {' | '.join(cells)} |\n{'|---' * len(cells)}|")


def load_rows(run: str, data: str | None, most: int) -> tuple[Any, list[Any], list[str]]:
    """Loads a run's recipe, test rows at even distances, and their labels."""
    recipe = load_model_recipe(run, {} if data is None else {"data.source": data})
    source, label = open_data(recipe, None if data else "test"), str(recipe.data.columns.get("label", "label"))
    parts = list(source.read_parts())
    rows = [row for part in parts for row in part.rows]
    labels = [str(row[label]) for part in parts for row in part.given]
    numbers = range(0, len(rows), max(1, len(rows) // most))
    return recipe, [rows[number] for number in numbers][:most], [labels[number] for number in numbers][:most]


def measure_classifier(run: str, data: str | None, most: int, kinds: Sequence[str]) -> None:
    """Prints the table of a classifier: its accuracy on test rows, and the time of a row, its preparation included."""
    recipe, rows, labels = load_rows(run, data, most)
    base = None
    print(f"\n{len(rows)} rows of {Path(run).name}, text tower:\n")
    print_head("accuracy", "ms a row")
    for kind in kinds:
        model, collator = load_predictor(run, rows, recipe)
        convert(model, kind, "text")
        start, right = time.process_time(), []
        for first in range(0, len(rows), 32):
            numbers = range(first, min(first + 32, len(rows)))
            answers = predict_batch(model, collator, NumberedRows([rows[n] for n in numbers], numbers))
            right += [answer["label"] == labels[n] for n, answer in zip(numbers, answers, strict=True)]
        spent = time.process_time() - start
        score = RowScore(np.array(right, dtype=float), np.ones(len(right)))
        cells = format_score("accuracy", score, base)
        base = base or score
        print(f"| {kind} | {cells} | {measure_size(model):.1f} | {spent / len(rows) * 1e3:.2f} |", flush=True)


def measure_retrieval(checkpoint: str, file: str, column: str, most: int, kinds: Sequence[str]) -> None:
    """Prints the table of texts by which others of their row are found, and the time of encoding one."""
    pairs = list(datasets.load_dataset("parquet", data_files=file, split="train")[column])[:most]
    queries, items = [pair[0] for pair in pairs], [text for pair in pairs for text in pair[1:]]
    owners = [number for number, pair in enumerate(pairs) for _ in pair[1:]]
    relevant = [[n for n, owner in enumerate(owners) if owner == number] for number in range(len(pairs))]
    processor, base = PlaitProcessor.compose(text=checkpoint), None
    print(f"\n{len(queries)} texts, each to find another of its row among {len(items)}:\n")
    print_head("recall@1", "ms a text")
    for kind in kinds:
        model: Any = PlaitForRetrieval.compose(text=checkpoint, document="shared", verbose=False).eval()
        convert(model, kind, "text")
        start = time.process_time()
        first, second = (model.encode(texts, processor, show_progress=False) for texts in (queries, items))
        spent = time.process_time() - start
        hits = compute_ranks(first, second, relevant) == 1
        score = RowScore(hits.astype(float), np.ones(len(hits)))
        cells = format_score("recall@1", score, base)
        base = base or score
        cost = spent / (len(queries) + len(items)) * 1e3
        print(f"| {kind} | {cells} | {measure_size(model):.1f} | {cost:.2f} |", flush=True)


def time_paths(model: Any, row: torch.Tensor, trains: bool) -> Iterator[str]:
    """Yields the ms of each path of a language model: the logits of a text, its loss in chunks, forward and backward,
    and a generated token."""
    with torch.no_grad():
        yield f"{measure_seconds(lambda: model(input_ids=row)) * 1e3:.0f}"
        yield f"{measure_seconds(lambda: model(input_ids=row, labels=row)) * 1e3:.0f}"

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(input_ids=row, labels=row).loss.backward()

    yield f"{measure_seconds(step, 1) * 1e3:.0f}" if trains else "no gradient"
    model.zero_grad(set_to_none=True)
    yield f"{measure_seconds(lambda: model.generate(row[:, :8], **NEW_TOKENS), 2) / 17 * 1e3:.0f}"


def measure_language(checkpoint: str, file: str, column: str, kinds: Sequence[str]) -> None:
    """Prints the table of a language model: the perplexity of texts, and the time of each path."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = list(dict.fromkeys(datasets.load_dataset("parquet", data_files=file, split="train")[column]))[:TEXTS]
    rows = [tokenizer(text, return_tensors="pt", truncation=True, max_length=LENGTH).input_ids for text in texts]
    base = None
    print(f"\n{len(rows)} texts of at most {LENGTH} tokens:\n")
    print_head("perplexity", "ms: logits of 256 tokens", "their loss", "forward + backward", "a new token")
    for kind in kinds:
        model: Any = convert(PlaitForCausalLM.from_pretrained(checkpoint, dtype="float32"), kind, "decoder")
        with torch.no_grad():
            losses = [model(input_ids=row, labels=row).loss.item() * (row.shape[1] - 1) for row in rows]
        score = build_perplexity_scores(losses, [row.shape[1] - 1 for row in rows])["perplexity"]
        cells = format_score("perplexity", score, base)
        base = base or score
        times = " | ".join(time_paths(model, rows[0], kind in ("float32", "bfloat16")))
        print(f"| {kind} | {cells} | {measure_size(model):.0f} | {times} |", flush=True)


def main() -> None:
    """Prints the tables of what is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", help="a run folder of a classifier that reads texts")
    parser.add_argument("--data", help="a file of its test rows; without it the test split of its recipe")
    parser.add_argument("--rows", type=int, default=1000, help="rows at most")
    parser.add_argument("--retrieval", help="a checkpoint of a text encoder")
    parser.add_argument("--language", help="a causal language model")
    parser.add_argument("--texts", help="a parquet file of texts, for retrieval of lists of them")
    parser.add_argument("--column", default="text")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="float32 first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.classifier:
        measure_classifier(options.classifier, options.data, options.rows, options.kinds)
    if options.retrieval:
        measure_retrieval(options.retrieval, options.texts, options.column, options.rows, options.kinds)
    if options.language:
        measure_language(options.language, options.texts, options.column, options.kinds)


if __name__ == "__main__":
    main()
