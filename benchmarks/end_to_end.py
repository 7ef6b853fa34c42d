"""End to end beside what users would pick: `python benchmarks/end_to_end.py --only encode --encoder FOLDER --texts
FILE.parquet:COLUMN` (see `--help`, and docs/results/end_to_end.md for the commands of its figures).

Both sides have the same weights and are measured alternately on one thread; ratios are peer / plait with quartiles over
the rounds, of CPU time and of wall time. Outputs are compared before, or with training the test metrics after. `encode`
and `clip` run in this process; in `train-...`, `predict` and `serve` each side is a process of its own, with loading,
tokenizing and evaluation. Peers needed: sentence-transformers, onnxruntime, openvino, nncf; open_clip_torch; fastapi,
uvicorn.
"""

import argparse
import importlib
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from datasets import load_dataset
from paired import Row, write_results, write_table

Options = argparse.Namespace


def read_texts(options: Options) -> list[str]:
    """Reads the texts of `--texts FILE:COLUMN ...`, without empty ones and repetitions, at most `--count`."""
    found: dict[str, None] = {}
    for given in options.texts:
        file, _, column = given.rpartition(":")
        found |= dict.fromkeys(row for row in load_dataset("parquet", data_files=file)["train"][column] if row)
    return list(found)[: options.count]


def encode(options: Options, work: Path) -> list[Row]:
    """Sentences to vectors."""
    cases = importlib.import_module("encode_cases")
    return cases.encode_texts(options.encoder, read_texts(options), options.rounds, work)


def clip(options: Options, work: Path) -> list[Row]:
    """Zero-shot classification and retrieval."""
    rows = load_dataset("parquet", data_files=options.images)["train"].select(range(options.image_count))
    images = [row["image"].convert("RGB") for row in rows]
    texts = [caption for row in rows for caption in row["captions"][:2]]
    labels = "dog cat man woman child ball water beach street snow grass bicycle boat car mountain".split()
    return importlib.import_module("clip_cases").compare_clip(images, texts, labels, options.rounds, work)


def train_text(options: Options, work: Path) -> list[Row]:
    """A text classifier."""
    cases = importlib.import_module("training_cases")
    return cases.train_text(
        options.encoder, options.table, options.text, options.label, options.train_rows, options.rounds
    )


def train_images(options: Options, work: Path) -> list[Row]:
    """An image classifier."""
    cases = importlib.import_module("training_cases")
    return cases.train_images(options.image_table, options.image_label, options.train_rows, options.rounds, work)


def train_captions(options: Options, work: Path) -> list[Row]:
    """A captioner."""
    cases = importlib.import_module("training_cases")
    return cases.train_captions(options.photos, options.train_rows, options.rounds, work)


def predict(options: Options, work: Path) -> list[Row]:
    """A table with answers."""
    cases = importlib.import_module("predict_cases")
    return cases.predict_table(options.encoder, options.table, options.text, options.count, options.rounds, work)


def serve(options: Options, work: Path) -> list[Row]:
    """Requests over HTTP."""
    cases = importlib.import_module("serving_cases")
    return cases.serve_texts(options.encoder, read_texts(options), options.rounds, work)


CASES: dict[str, Callable[[Options, Path], list[Row]]] = {
    "encode": encode,
    "clip": clip,
    "train-text": train_text,
    "train-images": train_images,
    "train-captions": train_captions,
    "predict": predict,
    "serve": serve,
}


def describe_machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, 1 thread, torch {torch.__version__}, transformers {transformers.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", help="a folder of sentence-transformers of the kind of MiniLM")
    parser.add_argument("--texts", nargs="+", default=[], metavar="FILE:COLUMN", help="encode, serve: parquet files")
    parser.add_argument("--count", type=int, default=1200, help="encode, serve, predict: rows")
    parser.add_argument("--images", help="clip: a parquet file with columns image and captions (lists)")
    parser.add_argument("--image_count", type=int, default=40, help="clip: images; twice as many texts")
    parser.add_argument("--table", help="train-text, predict: a folder with train, validation and test.parquet")
    parser.add_argument("--text", default="text", help="its column of texts")
    parser.add_argument("--label", default="label", help="its column of labels")
    parser.add_argument("--image_table", help="train-images: a folder likewise, with a column image")
    parser.add_argument("--image_label", default="label", help="its column of labels")
    parser.add_argument("--photos", help="train-captions: a folder likewise, with columns image and captions (lists)")
    parser.add_argument("--train_rows", type=int, nargs=3, default=[1280, 200, 500], metavar="ROWS", help="by split")
    parser.add_argument("--output", type=Path, default=Path("runs/end_to_end"), help="a folder for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine, rows = describe_machine(), []
    print(machine, file=sys.stderr, flush=True)
    for name in options.only:
        with tempfile.TemporaryDirectory() as work:
            rows += CASES[name](options, Path(work))
        write_results(rows, machine, options.output)
    print(write_table(rows))
    print("; ".join(f"{row.case}, {row.peer}: {row.compute_ratios('cpu')[1]:.2f}, bar {row.bar:g}" for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
