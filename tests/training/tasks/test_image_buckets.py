"""Training on images of several aspect ratios: each in the nearest size, and every batch in one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plait.processing.images import read_image_size
from plait.training.data.samplers import BucketSampler
from plait.training.recipes.errors import RecipeError
from plait.training.runs.assembly import build_arguments
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, build_run
from plait.training.tasks.buckets import choose_bucket

SIZES = [(8, 8), (4, 16), (16, 4)]
PICTURES = [(60, 20), (30, 28), (22, 20), (9, 40), (30, 31), (8, 31), (25, 24)]  # width and height
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_the_nearest_aspect_ratio() -> None:
    found = [choose_bucket(size, SIZES) for size in ((10, 10), (10, 19), (10, 21), (21, 10), (1, 900))]
    assert [SIZES[number] for number in found] == [(8, 8), (8, 8), (4, 16), (16, 4), (4, 16)]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_size_is_read_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (6, 3)).save(tmp_path / "picture.jpg", exif=exif)
    expected = (3, 6) if orientation < 5 else (6, 3)
    for given in (str(tmp_path / "picture.jpg"), (tmp_path / "picture.jpg").read_bytes()):
        assert read_image_size(given) == expected
    assert read_image_size(np.zeros((3, 6, 3), np.uint8)) == (3, 6)
    with pytest.raises(ValueError, match="9 bytes is not a readable image"):
        read_image_size(b"no image.")


@pytest.mark.parametrize("size", [1, 3, 4])
def test_batches_of_one_bucket_with_every_row(size: int) -> None:
    buckets = [0, 1, 0, 2, 0, 0, 1, 0, 0, 0]
    epoch = [0]
    sampler = BucketSampler(buckets, size, seed=3, epoch=lambda: epoch[0])
    orders = []
    for epoch[0] in (0, 1, 0):
        order = list(sampler)
        orders.append(order)
        assert len(order) == len(sampler) and len(order) % size == 0
        for start in range(0, len(order), size):
            assert len({buckets[row] for row in order[start : start + size]}) == 1
        counts = Counter(order)
        assert set(counts) == set(range(len(buckets)))
        assert max(counts.values()) <= max(2, size)
    assert orders[0] == orders[2] != orders[1]


def make(folder: Path, **changes: Any) -> TrainingRun:
    rows = []
    for number, size in enumerate(PICTURES):
        Image.new("RGB", size, (30 * number, 0, 255 - 30 * number)).save(folder / f"{number}.png")
        rows += [{"text": f"picture {number}", "target_image": f"{number}.png"}] * 2
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "per_device_train_batch_size": 4}
    content = {
        "task": "image_generation",
        "model": {
            "text": {"config": {**TINY, "max_position_embeddings": 24}},
            "options": {"image_size": 8, "patch_size": 4, **TINY},
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": {split: str(folder / "rows.jsonl") for split in ("train", "validation")}},
        "training": {**training, "num_train_epochs": 1, **changes.pop("training", {})},
        "settings": {"buckets": [list(size) for size in SIZES], "grid_images": 0, **changes},
        "output_dir": str(folder / "run"),
    }
    recipe = build_recipe(content)
    (folder / "built").mkdir(exist_ok=True)
    return build_run(recipe, folder / "built", build_arguments(recipe, folder / "built"))


def test_training_batches_have_one_size_and_every_image_its_own(tmp_path: Path) -> None:
    run = make(tmp_path)
    shapes: Counter[tuple[int, ...]] = Counter()
    for batch in run.trainer.get_train_dataloader():
        images = batch["target_pixel_values"]
        shapes[tuple(images.shape[-2:])] += len(images)
        assert torch.equal(images, images[:, :, :1, :1].expand_as(images))  # one colour, whatever the crop
    # 2 of 7 pictures are tall, 1 wide, each twice; batches of 4 are filled with further rows of their bucket
    assert shapes == {(8, 8): 8, (4, 16): 4, (16, 4): 4}
    for batch in run.trainer.get_eval_dataloader():
        assert batch["inputs"]["target_pixel_values"].shape[-2:] == (8, 8)
    run.trainer.train()
    assert run.trainer.state.global_step == 4


def test_a_batch_of_other_rows_has_the_size_of_most(tmp_path: Path) -> None:
    """As from another trainer's sampler."""
    run = make(tmp_path)
    rows = [run.data.splits["train"][number] for number in (0, 6, 7)]  # one wide, two tall
    batch = run.trainer.data_collator.build_training_batch(rows)
    assert batch["target_pixel_values"].shape == (3, 3, 16, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buckets": [[8]]}, r"settings.buckets has \[8\]: expected \[height, width\]"),
        ({"buckets": [[8, 8], [6, 8]]}, r"settings.buckets has \[6, 8\], which is no multiple of patch_size 4"),
        ({"training": {"train_sampling_strategy": "group_by_length"}}, "settings.buckets cannot be used with"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((RecipeError, ValueError), match=message):
        make(tmp_path, **changes).trainer.get_train_dataloader()
