"""A row with several right texts: one is drawn in every epoch of training, and evaluation reads all of them."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plait.training.recipes.errors import RecipeError
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, train
from plait.training.tasks.collator import PlaitDataCollator

from ..text_recipes import recipe_for

MakeRun = Callable[..., TrainingRun]


def written(run: TrainingRun, labels: torch.Tensor) -> list[str]:
    texts = run.processor.batch_decode(labels.masked_fill(labels == -100, 0), skip_special_tokens=True)
    return [text.strip() for text in texts]


def drawn_texts(run: TrainingRun, epoch: int) -> list[str]:
    """What a model is trained on in this epoch, by the loader that trains it."""
    collator: Any = run.trainer.data_collator
    collator.set_epoch(epoch)
    texts = []
    for batch in run.trainer.get_train_dataloader():
        texts += written(run, batch["labels"])
    return sorted(texts)


@pytest.mark.parametrize("workers", [0, 1])
def test_one_reference_a_row_is_drawn_in_every_epoch(make_run: MakeRun, workers: int) -> None:
    run = make_run("captioning", dataloader_num_workers=workers, dataloader_persistent_workers=workers > 0)
    epochs = [drawn_texts(run, number) for number in range(3 if workers else 40)]
    right = [set(targets) for targets in run.data.train["target"]]
    for texts in epochs:
        assert len(texts) == 3 and all(len(targets & set(texts)) == 1 for targets in right)
    assert drawn_texts(run, 1) == epochs[1]
    if not workers:
        counts = Counter(text for texts in epochs for text in texts)
        assert set(counts) == set().union(*right) and all(8 <= count <= 32 for count in counts.values())
        assert len({tuple(texts) for texts in epochs}) >= 6  # rows draw apart: of 8 patterns most are seen


@pytest.mark.slow
def test_workers_that_live_on_see_the_next_epoch(make_run: MakeRun) -> None:
    run, alone = (
        make_run("captioning", dataloader_num_workers=1, dataloader_persistent_workers=True),
        make_run("captioning"),
    )
    loader, collator = run.trainer.get_train_dataloader(), run.trainer.data_collator
    for epoch in range(4):
        collator.set_epoch(epoch)
        (batch,) = loader
        assert sorted(written(run, batch["labels"])) == drawn_texts(alone, epoch)


def test_the_trainer_tells_the_epochs(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    draw = PlaitDataCollator.draw
    monkeypatch.setattr(
        PlaitDataCollator, "draw", lambda self, *about: seen.append(int(self.epoch)) or draw(self, *about)
    )
    run = make_run("captioning", num_train_epochs=3, eval_strategy="epoch", per_device_train_batch_size=2)
    run.trainer.train()
    assert seen == [0] * 3 + [1] * 3 + [2] * 3  # and none while it evaluates


def test_evaluation_reads_all_references(make_run: MakeRun) -> None:
    run = make_run("captioning")
    collator: Any = run.trainer.data_collator
    rows = list(run.data.validation)
    batches = []
    for epoch in range(3):
        collator.set_epoch(epoch)
        batches.append(collator.build_evaluation_batch(rows))
    assert all(batch["references"] == [row["target"] for row in rows] for batch in batches)
    assert all(torch.equal(batch["inputs"]["labels"], batches[0]["inputs"]["labels"]) for batch in batches)


def test_each_reference_may_be_a_row(tmp_path: Path, pictures: dict[str, Path]) -> None:
    content = recipe_for("captioning", tmp_path, pictures, num_train_epochs=1)
    content["settings"] = {"references": "each"}
    results = train(build_recipe(content), "plait train")
    assert results["validation"]["model"]["loss"] > 0
    content["settings"] = {"references": "first"}
    with pytest.raises(RecipeError, match="references"):
        train(build_recipe({**content, "output_dir": str(tmp_path / "other")}), "plait train")


def test_lengths_allow_for_the_longest(make_run: MakeRun) -> None:
    run = make_run("captioning")
    collator: Any = run.trainer.data_collator
    longest = [
        max(len(run.processor.target_tokenizer(text)["input_ids"]) for text in targets)
        for targets in run.data.train["target"]
    ]
    found = collator.task.count_tokens(collator, run.data.train)
    assert [a >= b for a, b in zip(found, longest, strict=True)] == [True] * 3
    first = run.data.train.map(lambda row: {"target": [min(row["target"], key=len)]})
    assert all(a > b for a, b in zip(found, collator.task.count_tokens(collator, first), strict=True))


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws(tmp_path: Path, pictures: dict[str, Path]) -> None:
    settings = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 1}
    recipe = build_recipe(recipe_for("captioning", tmp_path, pictures, **settings))
    train(recipe, "plait train")
    folder = tmp_path / "run-captioning"
    expected = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        if checkpoint.name != "checkpoint-4":  # the first step of the second epoch
            shutil.rmtree(checkpoint)
    train(recipe, "plait train", resume=True)
    found = load_file(folder / "model.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
