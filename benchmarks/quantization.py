"""Accuracy, size and speed of a classifier and a language model by the kind of their weights, as a Markdown table.

python benchmarks/quantization.py --classifier RUN --language CHECKPOINT --texts FILE.parquet --column context
"""

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoTokenizer

from plait import PlaitForCausalLM
from plait.training import load_run
from plait.training.runs.evaluate import evaluate
from plait.training.runs.loading import load_model_recipe

REPEATS, TEXTS, LENGTH = 5, 8, 256
NEW_TOKENS: dict[str, Any] = {"do_sample": False, "min_new_tokens": 17, "max_new_tokens": 17}
CLASSIFIER = ({}, {"text": "int8"}, {"text": "int8", "fusion": "int8"}, {"text": "int8_dynamic"}, {"text": "int4"})
LANGUAGE = ({}, {"decoder": "int8"}, {"decoder": "int8_dynamic"}, {"decoder": "int4"})


def measure_size(model: Any, folder: Path) -> float:
    """Saves the model and returns the size of its weights in MB."""
    model.save_pretrained(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


@torch.no_grad()
def measure_seconds(call: Callable[[], Any]) -> float:
    """Returns the least CPU time of a few calls, in seconds, after one that is not counted."""
    call()
    found = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def describe(parts: dict[str, str]) -> str:
    """Returns the cell of a table that names the kinds."""
    return ", ".join(f"{part} {kind}" for part, kind in parts.items()) or "float32"


def measure_classifier(run: str, rows: int) -> None:
    """Prints the rows of a classifier of text and image: its accuracy on test rows, size and time of 32 rows."""
    _, processor = load_run(run)
    kind = type(load_run(run)[0])
    recipe = load_model_recipe(run, {"data.max_rows": {"test": rows}})
    texts = ["what colour is the shape in the image?", "is there a circle?"] * 16
    inputs = processor(text=texts, return_tensors="pt")
    inputs["pixel_values"] = torch.randn(32, 1, 3, 64, 64)
    for parts in CLASSIFIER:
        with tempfile.TemporaryDirectory() as folder:
            model = kind.from_pretrained(run, quantize=parts)
            size = measure_size(model, Path(folder))
            for name in ("recipe.yaml", "run.json"):
                shutil.copy(Path(run, name), folder)
            processor.save_pretrained(folder)
            score = evaluate(folder, recipe, "test")
            seconds = measure_seconds(lambda model=model: model(**inputs))
        print(
            f"| {describe(parts)} | {score['accuracy']:.4f} | {score['loss']:.4f} | {size:.1f} | {seconds * 1e3:.0f} |"
        )


def measure_language(checkpoint: str, file: str, column: str) -> None:
    """Prints the rows of a language model: perplexity of texts, size, time of 256 tokens and of a generated one."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = list(dict.fromkeys(datasets.load_dataset("parquet", data_files=file, split="train")[column]))[:TEXTS]
    rows = [tokenizer(text, return_tensors="pt", truncation=True, max_length=LENGTH).input_ids for text in texts]
    for parts in LANGUAGE:
        model = PlaitForCausalLM.from_pretrained(checkpoint, dtype="float32", quantize=parts)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            size = measure_size(model, Path(folder))
            losses = [(model(input_ids=row, labels=row).loss.item(), row.shape[1] - 1) for row in rows]
        perplexity = math.exp(sum(loss * count for loss, count in losses) / sum(count for _, count in losses))
        prefill = measure_seconds(lambda model=model: model(input_ids=rows[0]))
        short = measure_seconds(lambda model=model: model.generate(rows[0][:, :8], **NEW_TOKENS))
        print(f"| {describe(parts)} | {perplexity:.2f} | {size:.0f} | {prefill * 1e3:.0f} | {short / 17 * 1e3:.0f} |")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", help="a run folder of a classifier of text and image")
    parser.add_argument("--rows", type=int, default=2000, help="test rows of its recipe's data")
    parser.add_argument("--language", help="a causal language model")
    parser.add_argument("--texts", help="a parquet file of texts")
    parser.add_argument("--column", default="text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.classifier:
        print("| weights | accuracy | loss | MB | ms for 32 rows |\n|---|---|---|---|---|")
        measure_classifier(options.classifier, options.rows)
    if options.language:
        print("| weights | perplexity | MB | ms for 256 tokens | ms for a new token |\n|---|---|---|---|---|")
        measure_language(options.language, options.texts, options.column)


if __name__ == "__main__":
    main()
