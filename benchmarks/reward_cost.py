"""What a step by rewards costs beside one of cross-entropy: `python benchmarks/reward_cost.py --samples 5 --rounds 6`

A captioner with random weights: a ViT of 224-pixel images (196 patches) and a decoder, both trained, on batches of
images with made captions of about a dozen words. Steps of both kinds alternate, so that a busy machine slows both; the
times are of the processor, and each is the median of its rounds. Last line:

    plait reward cost: cross_entropy=x.xx s reward=x.xx s ratio=x.xx
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from plait.training.runs.assembly import build_arguments
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import build_run

WORDS = [f"{a}{b}{c}" for a in "bdklmnprst" for b in "aeiou" for c in "lmnrst"]
MODELS: dict[str, dict[str, Any]] = {
    "small": {
        "image": {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6, "image_size": 224},
        "decoder": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
    },
    "tiny": {
        "image": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64},
        "decoder": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    },
}


def write_rows(folder: Path, rows: int, size: int) -> None:
    """Images of noise with captions of 10 to 14 words."""
    draw, chance = random.Random(0), np.random.default_rng(0)
    made = []
    for number in range(rows):
        path = folder / f"{number}.png"
        Image.fromarray(chance.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(path)
        made.append({"image": str(path), "target": " ".join(draw.choices(WORDS, k=draw.randint(10, 14)))})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


def build_trainer(folder: Path, parts: dict[str, Any], batch: int, reward: dict[str, Any] | None) -> Any:
    """Builds the trainer of a run."""
    sizes = {"image": {"patch_size": 16}, "decoder": {"max_position_embeddings": 48}}
    content = {
        "task": "generation",
        "model": {part: {"config": {**own, **sizes[part]}} for part, own in parts.items()},
        "data": {"source": {"train": str(folder / "rows.jsonl")}},
        "tokenizer": {"train": {"vocab_size": 4000, "min_frequency": 1}},
        "generation": {"max_new_tokens": 16, "do_sample": False},
        "training": {"use_cpu": True, "per_device_train_batch_size": batch, "report_to": "none"},
        **({} if reward is None else {"reward": reward}),
    }
    recipe = build_recipe(content)
    return build_run(recipe, folder / str(reward is None), build_arguments(recipe, folder / "run")).trainer


def make_step(trainer: Any) -> Callable[[], None]:
    """Returns a function that runs a training step on the same batch, with its backward pass."""
    batch = next(iter(trainer.get_train_dataloader()))
    model = trainer.model.train()

    def step() -> None:
        inputs = trainer._prepare_inputs(batch)
        trainer.compute_loss(model, inputs).backward()
        model.zero_grad()

    return step


def main() -> None:
    """Alternates the steps and prints their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--metric", default="cider")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    reward = {"metrics": {arguments.metric: 1.0}, "samples": arguments.samples, "stop_on_collapse": False}
    parts = MODELS[arguments.model]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, 2 * arguments.batch, parts["image"]["image_size"])
        kinds = {"cross_entropy": None, "reward": reward}
        steps = {kind: make_step(build_trainer(folder, parts, arguments.batch, own)) for kind, own in kinds.items()}
        times: dict[str, list[float]] = {kind: [] for kind in steps}
        for number in range(arguments.rounds + 1):
            for kind, step in steps.items():
                begun = time.process_time()
                step()
                times[kind] += [time.process_time() - begun] if number else []  # the first warms up
    found = {kind: median(own) for kind, own in times.items()}
    shown = " ".join(f"{kind}={value:.3f} s" for kind, value in found.items())
    print(f"plait reward cost: {shown} ratio={found['reward'] / found['cross_entropy']:.2f}")


if __name__ == "__main__":
    main()
