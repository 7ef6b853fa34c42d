"""A recipe of a comparison on a few made rows, from which nothing is trained."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from plait.training.compare.experiment import Experiment
from plait.training.runs.recipe import build_recipe

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LABELS = ("no", "yes", "maybe")


def write_rows(file: Path, rows: int, start: int = 0, numbers: bool = False) -> str:
    """Two rows for each picture, of grey squares that differ; a class of three, or the row's number and a half."""
    lines = []
    for number in range(start, start + rows):
        picture = file.parent / f"{number // 2}.png"
        Image.new("RGB", (16, 16), (number // 2, 7, 9)).save(picture)
        label = number + 0.5 if numbers else LABELS[1 if number % 4 == 1 else 0 if number % 3 else 2]
        lines.append(json.dumps({"text": f"row {number}", "image": str(picture), "label": label}))
    file.write_text("\n".join(lines))
    return str(file)


def build_experiment(folder: Path, source: Any = None, **fields: Any) -> Experiment:
    """The rows are those of one file of 40, unless `source` names others; fields: keys of the recipe by their path."""
    content: dict[str, Any] = {
        "task": "classification",
        "model": {
            "text": {"config": {**TINY, "max_position_embeddings": 16}},
            "image": {"config": {**TINY, "image_size": 16, "patch_size": 8}},
            "fusion_config": TINY,
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": source or write_rows(folder / "rows.jsonl", 40)},
        "training": {"use_cpu": True, "disable_tqdm": True, "max_steps": 1, "per_device_train_batch_size": 4},
        "metrics": ["accuracy", "f1_macro"],
        "compare": {"folds": 2, "fusions": ["early", "late"], "bootstrap": 100, "seeds": [0, 1]},
        "output_dir": str(folder / "compared"),
    }
    for path, value in fields.items():
        *parents, last = path.split("__")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return Experiment(build_recipe(content))
