"""Rows to batches."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image

from plait import PlaitProcessor
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.training.data.labels import MULTI, REGRESSION, LabelSpec
from plait.training.data.loading import DataSplits
from plait.training.data.row_encoder import ImageCache
from plait.training.tasks.collator import PlaitDataCollator

MakeModel = Callable[..., PlaitPreTrainedModel]


def test_a_batch_is_what_the_model_takes(make_model: MakeModel, processor: PlaitProcessor, data: DataSplits) -> None:
    rows = list(data.train)
    batch = PlaitDataCollator(processor, data.labels)(rows)
    assert next(iter(batch)) == "labels"
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    assert batch["image_indices"].flatten().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    plain = processor(text=[row["text"] for row in rows], images=[row["image"] for row in rows], return_tensors="pt")
    model = make_model()
    with torch.no_grad():
        shared, apart = model(**batch).logits, model(**plain).logits
    torch.testing.assert_close(shared, apart)


def test_several_pictures_and_none(make_model: MakeModel, processor: PlaitProcessor, pictures: dict[str, Path]) -> None:
    red, blue = str(pictures["red"]), str(pictures["blue"])
    rows = [
        {"text": "is it red ?", "image": [red, blue, red]},
        {"text": "is it blue ?", "image": None},
        {"text": None, "image": [blue]},
    ]
    batch = PlaitDataCollator(processor)(rows)
    assert batch["image_indices"].tolist() == [[0, 1, 0], [-1, -1, -1], [1, -1, -1]]
    assert batch["attention_mask"][2].sum() == 0
    plain = processor(text=[row["text"] for row in rows], images=[row["image"] for row in rows], return_tensors="pt")
    model = make_model()
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, model(**plain).logits)


def test_two_picture_columns(processor: PlaitProcessor, pictures: dict[str, Path]) -> None:
    rows = [{"text": "same ?", "image.0": str(pictures["red"]), "image.1": str(pictures["blue"])}]
    assert PlaitDataCollator(processor)(rows)["image_indices"].tolist() == [[0, 1]]


def test_pictures_are_known_by_id_path_or_bytes(processor: PlaitProcessor, pictures: dict[str, Path]) -> None:
    content = pictures["red"].read_bytes()
    by_bytes = [{"image": {"bytes": bytes(content), "path": None}} for _ in range(2)]
    by_object = [{"image": Image.open(pictures["red"])} for _ in range(2)]
    by_id = [{"image": {"bytes": content, "path": None}, "image_id": 7}, {"image": str(pictures["red"]), "image_id": 7}]
    for rows in (by_bytes, by_object, by_id):
        assert len(PlaitDataCollator(processor)(rows)["pixel_values"]) == 1


def test_a_batch_without_any_picture_has_no_pixels(processor: PlaitProcessor) -> None:
    batch = PlaitDataCollator(processor)([{"text": "is it red ?", "image": None}])
    assert sorted(batch) == ["attention_mask", "input_ids", "token_type_ids"]


def test_labels_of_each_kind(processor: PlaitProcessor) -> None:
    rows = [{"text": "a", "label": 0.5}, {"text": "b", "label": 2.0}]
    labels = PlaitDataCollator(processor, LabelSpec((), REGRESSION))(rows)["labels"]
    assert labels.dtype == torch.float
    assert labels.tolist() == [0.5, 2.0]
    rows = [{"text": "a", "label": [2, 0]}, {"text": "b", "label": []}]
    assert PlaitDataCollator(processor, LabelSpec(("x", "y", "z"), MULTI))(rows)["labels"].tolist() == [
        [1.0, 0.0, 1.0],
        [0.0, 0.0, 0.0],
    ]


def test_texts_are_cut(processor: PlaitProcessor) -> None:
    rows = [{"text": "is it red ? " * 9}]
    assert PlaitDataCollator(processor, max_length=5)(rows)["input_ids"].shape == (1, 5)


def test_text_pairs_have_two_segments(processor: PlaitProcessor) -> None:
    batch = PlaitDataCollator(processor)([{"text": "is it red ?", "text_pair": "is it blue ?"}])
    assert batch["token_type_ids"].unique().tolist() == [0, 1]


def test_masks_depend_on_seed_and_batch_alone(processor: PlaitProcessor, data: DataSplits) -> None:
    rows = list(data.train.select_columns("text"))
    make = [
        PlaitDataCollator(processor, task="masked_lm", settings={"mlm_probability": 0.5}, seed=seed)
        for seed in (1, 1, 2)
    ]
    first = make[0](rows)
    torch.manual_seed(5)
    again, other = make[1](rows), make[2](rows)
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert torch.equal(first["labels"], make[0](rows)["labels"])
    assert not torch.equal(first["labels"], other["labels"])
    assert not torch.equal(first["labels"], make[0](rows[::-1])["labels"].flip(0))


def test_masked_tokens_are_the_texts_own(processor: PlaitProcessor, data: DataSplits) -> None:
    rows = list(data.train.select_columns("text"))
    batch = PlaitDataCollator(processor, task="masked_lm", settings={"mlm_probability": 0.5})(rows)
    plain = PlaitDataCollator(processor)(rows)["input_ids"]
    chosen = batch["labels"] != -100
    assert torch.equal(batch["labels"][chosen], plain[chosen])
    assert torch.equal(batch["input_ids"][~chosen], plain[~chosen])
    assert not set(plain[chosen].tolist()) & set(processor.tokenizer.all_special_ids)


def test_kept_pictures_are_not_processed_again(
    processor: PlaitProcessor, pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = {name: shutil.copy(path, tmp_path / path.name) for name, path in pictures.items()}
    rows = [{"text": "a", "image": str(path), "image_id": name} for name, path in copies.items()]
    keeping, forgetful = PlaitDataCollator(processor), PlaitDataCollator(processor)
    keeping.image_cache = ImageCache(1.0)
    expected = keeping(rows)["pixel_values"]
    with monkeypatch.context() as patch:
        patch.setattr(type(processor), "__call__", lambda self, **given: {} if "images" not in given else 1 / 0)
        assert torch.equal(keeping.encode_images(rows)["pixel_values"], expected)
        with pytest.raises(ZeroDivisionError):
            forgetful.encode_images(rows)
    shutil.copy(copies["blue"], copies["red"])
    assert keeping(rows)["image_indices"].flatten().tolist() == [0, 1, 0]
    copies["red"].unlink()
    with pytest.raises(FileNotFoundError, match="images, row 0: there is no file"):
        keeping(rows)


def test_the_picture_cache_stays_below_its_limit(processor: PlaitProcessor, pictures: dict[str, Path]) -> None:
    size = 3 * 16 * 16 * 4
    cache = ImageCache(2.5 * size / 2**30)
    for name, path in pictures.items():
        cache.process_images(processor, {name: str(path)})
    assert list(cache.kept) == list(pictures)[1:]
    assert cache.size == 2 * size


def test_a_collator_goes_to_a_worker(processor: PlaitProcessor, data: DataSplits) -> None:
    collator = PlaitDataCollator(processor, data.labels)
    copy = pickle.loads(pickle.dumps(collator))
    rows = list(Dataset.from_list(list(data.train)))
    assert torch.equal(copy(rows)["pixel_values"], collator(rows)["pixel_values"])


def test_earlier_names_are_the_same_methods(processor: PlaitProcessor) -> None:
    collator = PlaitDataCollator(processor)
    for earlier, name in {
        "training_batch": "build_training_batch",
        "evaluation_batch": "build_evaluation_batch",
        "inputs": "encode_inputs",
        "images": "encode_images",
        "start_epoch": "set_epoch",
    }.items():
        assert getattr(collator, earlier) == getattr(collator, name)
    collator.pictures = cache = type(collator.pictures)(1.0)
    assert collator.image_cache is cache


def test_the_picture_cache_is_filled_to_its_last_byte(processor: PlaitProcessor, pictures: dict[str, Path]) -> None:
    cache = ImageCache(2 * 3 * 16 * 16 * 4 / 2**30)
    for name, path in list(pictures.items())[:2]:
        cache.process_images(processor, {name: str(path)})
    assert list(cache.kept) == list(pictures)[:2]
