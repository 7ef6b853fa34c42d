"""Emoji names and pictures that find each other, learned from one vendor's drawings, asked of the other's.

    python examples/emoji_across_vendors.py DATA/emoji --text MINILM --image EFFICIENTNET_LITE0 --folder runs/emoji

DATA/emoji holds train.parquet, validation.parquet and test.parquet with the columns image, caption (the emoji's name),
vendor and hexcode; no concept is in two splits. Trained and validated is on the drawings of --vendor alone; then the
drawings of --other are asked for: of the concepts of the training split (seen, drawn by another hand) and of those of
the test split (unseen). Chance is a random order of what is searched. Intervals (95 %) are a bootstrap over the
concepts and the seeds; what is searched stays whole. The same picture under two names is right for both.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, Image
from torch import nn
from torch.nn import functional as F

from plait import PlaitForRetrieval, PlaitProcessor
from plait.training.metrics.bootstrap import Resamples
from plait.training.metrics.retrieval import DEPTHS, compute_ranks
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import train

TRAINING = {
    "num_train_epochs": 30,
    "per_device_train_batch_size": 256,
    "per_device_eval_batch_size": 64,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "warmup_steps": 20,
    "lr_scheduler_type": "cosine",
    "cache_features": ["text", "image"],
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "mean_recall",
    "use_cpu": True,
    "disable_tqdm": True,
}


class Drawings(NamedTuple):
    """One vendor's drawings of a split: names, and files of pictures."""

    names: list[str]
    files: list[bytes]


def read(data: Path, split: str, vendor: str) -> Any:
    """The rows of one vendor, their pictures closed."""
    table: Any = Dataset.from_parquet(str(data / f"{split}.parquet")).cast_column("image", Image(decode=False))
    vendors = sorted(set(table["vendor"]))
    if vendor not in vendors:
        raise SystemExit(f"{split}.parquet has no vendor {vendor!r}, only {', '.join(vendors)}")
    return table.select([row for row, found in enumerate(table["vendor"]) if found == vendor])


def train_on(options: argparse.Namespace, seed: int) -> Path:
    """Two projections over locked towers; the epoch is chosen by unseen concepts of the same vendor."""
    files = {split: options.folder / f"{options.vendor}-{split}.parquet" for split in ("train", "validation")}
    for split, file in files.items():
        read(options.data, split, options.vendor).to_parquet(str(file))
    content = {
        "task": "retrieval",
        "model": {
            "text": options.text,
            "image": options.image,
            "freeze": ["text", "image"],
            "options": {"retrieval_config": {"projection_dim": 256}},
        },
        "data": {
            "source": {split: str(file) for split, file in files.items()},
            "columns": {"image": "image", "text": "caption"},
        },
        "training": TRAINING,
        "seed": seed,
        "output_dir": str(options.folder / f"run-{seed}"),
    }
    train(build_recipe(content), "examples/emoji_across_vendors.py", overwrite=True)
    return options.folder / f"run-{seed}"


def tower_vectors(run: Path, drawings: Drawings) -> dict[str, torch.Tensor]:
    """What the locked towers make of names and pictures, before any projection: the same for every seed."""
    model, processor = PlaitForRetrieval.from_pretrained(run), PlaitProcessor.from_pretrained(run)
    for side in ("text", "image"):
        model.projections[side] = nn.Identity()
    rows = {"text": drawings.names, "image": drawings.files}
    return {side: model.encode(rows[side], processor, side, normalize=False) for side in rows}


def ranks_of(run: Path, drawings: Drawings, vectors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """In both directions the rank of each concept's own, 1 for the most similar of all."""
    model = PlaitForRetrieval.from_pretrained(run)
    with torch.no_grad():
        names, pictures = (F.normalize(model.project(side, vectors[side]), dim=-1) for side in ("text", "image"))
    same: dict[bytes, list[int]] = {}
    for row, file in enumerate(drawings.files):
        same.setdefault(file, []).append(row)
    own = [same[file] for file in drawings.files]
    return {
        "name finds picture": compute_ranks(names, pictures, own),
        "picture finds name": compute_ranks(pictures, names, own),
    }


def report(title: str, found: list[np.ndarray], file: dict[str, Any]) -> None:
    """Recall, a mean over the seeds; and of each seed."""
    concepts = len(found[0])
    resamples = Resamples(np.arange(concepts), len(found), 2000, 0)
    print(f"| {title} (of {concepts:,}) | " + " | ".join(f"R@{depth}" for depth in DEPTHS) + " |\n|---|---|---|---|")
    shown = []
    for depth in DEPTHS:
        hits = [(each <= depth).astype(float) for each in found]
        mean = resamples.compute_values(lambda truth, hit: float(hit.mean()), np.ones(concepts), hits).interval
        shown.append(f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]")
        each = [round(float(hit.mean()), 4) for hit in hits]
        file[f"{title} R@{depth}"] = {**mean.as_dict(), "chance": depth / concepts, "by_seed": each}
    print("| plait | " + " | ".join(shown) + " |")
    print("| chance | " + " | ".join(f"{depth / concepts:.4f}" for depth in DEPTHS) + " |\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", default="sentence-transformers/all-MiniLM-L6-v2", help="tower: a folder or a Hub id")
    parser.add_argument("--image", default="facebook/dinov2-small", help="tower: a folder or a Hub id")
    parser.add_argument("--vendor", default="google", help="whose drawings are trained on")
    parser.add_argument("--other", default="twitter", help="whose drawings are asked for")
    parser.add_argument("--folder", type=Path, default=Path("runs/emoji"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    asked = {"seen": "train", "unseen": "test"}
    tables = {kind: read(options.data, split, options.other) for kind, split in asked.items()}
    drawings = {
        kind: Drawings(list(table["caption"]), [picture["bytes"] for picture in table["image"]])
        for kind, table in tables.items()
    }
    start, vectors, found = time.process_time(), {}, {}
    for seed in options.seeds:
        run = train_on(options, seed)
        for kind, drawn in drawings.items():
            vectors[kind] = vectors.get(kind) or tower_vectors(run, drawn)
            for direction, each in ranks_of(run, drawn, vectors[kind]).items():
                found.setdefault(f"{kind} concepts, {direction}", []).append(each)
        print(f"seed {seed}: {time.process_time() - start:.0f} s of CPU so far", flush=True)
    results: dict[str, Any] = {}
    for title, each in found.items():
        report(title, each, results)
    (options.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
