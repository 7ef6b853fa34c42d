"""Images that rows share: brought together by their content, encoded once, and what a stream says."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file

from plait import PlaitProcessor, PlaitTrainer
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.training.data.feature_cache import FeatureStore
from plait.training.data.loading import DataSplits
from plait.training.data.tower_digest import FEATURE_FORMAT
from plait.training.tasks.collator import PlaitDataCollator

MakeTrainer = Callable[..., PlaitTrainer]


def copy_rows(data: DataSplits, folder: Path, named: bool) -> list[dict[str, Any]]:
    """The training rows, each with a copy of its image under a name of its own, and an id that says nothing."""
    copies = [shutil.copy(row["image"], folder / f"{number}.png") for number, row in enumerate(data.train)]
    ids = [{"image_id": number % 2} if named else {} for number in range(len(copies))]
    return [{**row, "image": str(copy), **own} for row, copy, own in zip(data.train, copies, ids, strict=True)]


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_copies_of_an_image_are_encoded_once(
    make_trainer: MakeTrainer, data: DataSplits, tmp_path: Path, named: bool, as_list: bool
) -> None:
    rows: Any = copy_rows(data, tmp_path, named)
    rows = rows if as_list else Dataset.from_list(rows)
    options = {"share_images": True, "per_device_train_batch_size": 3}
    trainer = make_trainer(trainer={"train_dataset": rows}, **options)
    for _ in range(2):
        assert [len(batch["pixel_values"]) for batch in trainer.get_train_dataloader()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share_images": True}, "share_images puts rows .* but a IterableDataset is a stream"),
        ({"cache_features": ["image"], "frozen": ["image"]}, "cache_features: a IterableDataset is a stream"),
    ],
)
def test_a_stream_says_why_it_cannot(
    make_trainer: MakeTrainer, data: DataSplits, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(trainer={"train_dataset": data.train.to_iterable_dataset()}, max_steps=1, **options)


def test_a_batch_of_a_stream_shares_images_by_itself(
    make_trainer: MakeTrainer, make_model: Callable[..., PlaitPreTrainedModel], data: DataSplits, tmp_path: Path
) -> None:
    rows = Dataset.from_list(copy_rows(data, tmp_path, named=True))
    losses = []
    for given in (rows.to_iterable_dataset(), rows):
        options = {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 6}
        sampling = {} if given is not rows else {"train_sampling_strategy": "sequential"}
        trainer = make_trainer(make_model(), {"train_dataset": given}, **options, **sampling)
        assert len(next(iter(trainer.get_train_dataloader()))["pixel_values"]) == 2
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_features_for_several_splits_in_a_dict(make_trainer: MakeTrainer, data: DataSplits) -> None:
    splits = {"first": data.validation, "other": data.train}
    trainer = make_trainer(trainer={"eval_dataset": splits}, cache_features=["image"], frozen=["image"])
    assert len(trainer.data_collator.features["image"]) == 3
    assert {"eval_first_loss", "eval_other_loss"} <= trainer.evaluate().keys()


def test_features_of_a_tower_that_the_model_lacks_are_left_alone(
    make_trainer: MakeTrainer,
    make_model: Callable[..., PlaitPreTrainedModel],
    processor: PlaitProcessor,
    data: DataSplits,
) -> None:
    collator = PlaitDataCollator(processor, data.labels)
    first = make_trainer(
        trainer={"data_collator": collator}, cache_features=["image", "text"], frozen=["image", "text"]
    )
    store = collator.features["audio"] = collator.features["image"]
    second = make_trainer(make_model(), {"data_collator": collator})
    assert "encoder_outputs" in next(iter(second.get_eval_dataloader()))  # equal towers
    assert set(collator.features) == {"image", "text"}
    assert "encoder_outputs" in next(iter(first.get_eval_dataloader())) and len(store)


def test_features_of_an_older_version_are_not_read(tmp_path: Path) -> None:
    tensors = {"tokens": torch.zeros(2, 4), "offsets": torch.tensor([0, 2])}
    save_file(tensors, tmp_path / "a.safetensors", {"format": "plait features 1", "keys": '["path:a.png"]'})
    with pytest.raises(ValueError, match="not a file of features of this version"):
        FeatureStore(tmp_path)
    save_file(tensors, tmp_path / "a.safetensors", {"format": FEATURE_FORMAT, "keys": '["1"]'})
    assert len(FeatureStore(tmp_path)) == 1
