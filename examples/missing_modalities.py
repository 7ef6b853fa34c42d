"""A digit from three sides, any of which may be missing: a spoken word, half of a picture, and a text that leaves two.

    python examples/missing_modalities.py DATA/fsdd --output runs/missing

DATA/fsdd holds train.parquet and test.parquet of the Free Spoken Digit Dataset (columns audio, label; its official
split); the pictures are scikit-learn's handwritten digits, of which those shown in the test are in no training row.
Each modality is trained alone, and all three by one fusion that loses modalities at random while it trains and answers
from each alone as well (`single_modality_weight`); then the fusion is measured on every pattern of present modalities,
beside the best single modality that is present.
"""

import argparse
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from plait.training.compare.comparison import compare
from plait.training.runs.recipe import build_recipe

WORDS = "zero one two three four five six seven eight nine".split()
TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


def make_rows(fsdd: Path, split: str, generator: np.random.Generator) -> Dataset:
    """The split's clips, each with half a picture of its digit and a text that names it and another."""
    clips: Any = Dataset.from_parquet(str(fsdd / f"{split}.parquet"))
    pictures = pictures_by_digit(split)
    rows = []
    for clip in clips:
        digit = clip["label"]
        drawn = pictures[digit][generator.integers(len(pictures[digit]))]
        other = (digit + generator.integers(1, 10)) % 10
        named = [WORDS[number] for number in generator.permutation([digit, other])]
        row = {"audio": clip["audio"], "image": half(drawn, generator), "text": f"it is {named[0]} or {named[1]}"}
        rows.append({**row, "label": WORDS[digit]})
    return Dataset.from_list(rows)


def pictures_by_digit(split: str) -> list[np.ndarray]:
    """For each digit its pictures of 8 x 8 pixels, 0..16: every fifth is shown in the test alone."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    tested = np.arange(len(digits)) % 5 == 0
    chosen = tested if split == "test" else ~tested
    return [images[chosen & (digits == digit)].reshape(-1, 8, 8) for digit in range(10)]


def half(picture: np.ndarray, generator: np.random.Generator) -> dict[str, Any]:
    """A file of the picture's upper, lower, left or right half, the rest black."""
    pixels = (picture * 15).astype(np.uint8)
    kept = np.zeros((8, 8), dtype=bool)
    kept[:4] = True
    file = io.BytesIO()
    shown = np.where(np.rot90(kept, int(generator.integers(4))), pixels, 0).astype(np.uint8)
    Image.fromarray(shown).resize((16, 16)).convert("RGB").save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def recipe_of(data: Path, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fresh towers, and a fusion that gets along without any of them."""
    return {
        "task": "classification",
        "model": {
            "text": {"config": {**TINY, "num_hidden_layers": 1, "max_position_embeddings": 16}},
            "image": {"config": {**TINY, "image_size": 16, "patch_size": 4}},
            "audio": {"config": {**TINY, "num_mel_bins": 40, "max_source_positions": 50}},
            "fusion_config": {**TINY, "modality_dropout": arguments.modality_dropout},
            "options": {"initializer_range": 0.1},  # 0.02 is made for wide models
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {
            "source": {split: str(data / f"{split}.parquet") for split in ("train", "test")},
            "columns": {"text": "text", "image": "image", "audio": "audio", "label": "label"},
        },
        "training": {
            "use_cpu": True,
            "num_train_epochs": arguments.epochs,
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 100,
            "learning_rate": 2e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 100,
            "weight_decay": 0.05,
            "single_modality_weight": arguments.single_modality_weight,
        },
        "metrics": ["accuracy"],
        "compare": {"fusions": [arguments.fusion], "seeds": arguments.seeds, "group_by": ["audio"], "keep_best": False},
        "seed": 0,
        "output_dir": str(output / "compared"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fsdd", type=Path, help="the folder with train.parquet and test.parquet of fsdd")
    parser.add_argument("--output", type=Path, default=Path("runs/missing-modalities"))
    parser.add_argument("--fusion", default="early")
    parser.add_argument("--modality-dropout", type=float, default=0.4)
    parser.add_argument("--single-modality-weight", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    start, generator = time.process_time(), np.random.default_rng(0)
    for split in ("train", "test"):
        make_rows(arguments.fsdd, split, generator).to_parquet(arguments.output / f"{split}.parquet")
    recipe = build_recipe(recipe_of(arguments.output, arguments.output, arguments))
    compared = compare(recipe, "examples/missing_modalities.py", resume=arguments.resume)
    below = [
        name
        for name, scores in compared.content["audit"][arguments.fusion].items()
        if "gain" in scores and scores["gain"]["high"] < 0
    ]
    print((Path(recipe.output_dir or "") / "README.md").read_text())
    seconds = time.process_time() - start
    print(f"plait missing modalities: below={', '.join(below) or 'none'} seconds={seconds:.0f}")


if __name__ == "__main__":
    main()
