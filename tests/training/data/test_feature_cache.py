"""Cached outputs of frozen towers."""

import copy
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plait import PlaitProcessor, PlaitTrainer
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.training.data.feature_cache import FeatureStore, cache_features
from plait.training.data.labels import SINGLE
from plait.training.data.loading import DataSplits
from plait.training.metrics.classification import Metrics
from plait.training.tasks.collator import PlaitDataCollator

MakeModel = Callable[..., PlaitPreTrainedModel]
MakeTrainer = Callable[..., PlaitTrainer]
MODALITIES = ("text", "image")


@pytest.fixture
def cache(processor: PlaitProcessor, data: DataSplits, tmp_path: Path) -> Callable[..., FeatureStore]:
    def run(model: PlaitPreTrainedModel, modality: str, **options: Any) -> FeatureStore:
        return cache_features(model, processor, [data.train], modality, **{"folder": tmp_path / "cache", **options})

    return run


@pytest.mark.parametrize("cached", [["text"], ["image"], ["text", "image"]])
def test_losses_are_the_same_with_and_without(
    make_model: MakeModel, make_trainer: MakeTrainer, cached: list[str]
) -> None:
    options = {"frozen": ["text", "image"], "num_train_epochs": 2, "logging_steps": 1, "per_device_train_batch_size": 4}
    runs = [make_trainer(make_model(), **options), make_trainer(make_model(), cache_features=cached, **options)]
    for run in runs:
        run.train()
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in runs]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert runs[0].evaluate()["eval_loss"] == pytest.approx(runs[1].evaluate()["eval_loss"], abs=1e-6)
    batch = next(iter(runs[1].get_train_dataloader()))
    assert sorted(batch["encoder_outputs"]) == sorted(cached)
    assert ("pixel_values" in batch) == ("image" not in cached)


@pytest.mark.parametrize("modality", MODALITIES)
def test_rows_with_gaps_and_several_pictures(
    make_model: MakeModel,
    processor: PlaitProcessor,
    data: DataSplits,
    cache: Callable[..., FeatureStore],
    modality: str,
) -> None:
    model = make_model(freeze=MODALITIES, image={"pooling": "mean"})
    first, second = data.train[0]["image"], data.train[8]["image"]
    rows = [
        {"text": None, "image": [first, second]},
        {"text": data.train[0]["text"], "image": None},
        {"text": data.train[1]["text"], "image": [second]},
    ]
    collators = PlaitDataCollator(processor), PlaitDataCollator(processor)
    collators[1].features[modality] = cache(model, modality)
    plain, cached = (collator(rows) for collator in collators)
    assert list(cached["encoder_outputs"]) == [modality]
    with torch.no_grad():
        torch.testing.assert_close(model(**plain).logits, model(**cached).logits, atol=1e-6, rtol=0)


def test_each_distinct_input_is_computed_once(
    make_model: MakeModel, cache: Callable[..., FeatureStore], data: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(freeze=["image"])
    seen = []
    encode = model.model.encode
    monkeypatch.setattr(
        model.model, "encode", lambda name, **inputs: seen.append(len(inputs["pixel_values"])) or encode(name, **inputs)
    )
    assert len(cache(model, "image", batch_size=2)) == 3
    assert seen == [2, 1]
    cache(model, "image")
    assert seen == [2, 1]


def test_more_rows_add_to_the_same_cache(
    make_model: MakeModel, processor: PlaitProcessor, data: DataSplits, tmp_path: Path
) -> None:
    model = make_model(freeze=["text"])
    part = cache_features(model, processor, [data.train.select([0])], "text", folder=tmp_path / "cache")
    whole = cache_features(model, processor, [data.train], "text", folder=tmp_path / "cache")
    assert part.folder == whole.folder
    assert (len(part), len(whole)) == (1, 3)


def test_a_changed_weight_or_setting_makes_another_cache(
    make_model: MakeModel, processor: PlaitProcessor, cache: Callable[..., FeatureStore]
) -> None:
    model = make_model(freeze=MODALITIES)
    folders = [cache(model, modality).folder for modality in MODALITIES]
    assert folders == [cache(make_model(freeze=MODALITIES), modality).folder for modality in MODALITIES]
    with torch.no_grad():
        for modality in MODALITIES:
            next(model.model.towers[modality].parameters()).flatten()[0] += 1e-3
    changed = [cache(model, modality).folder for modality in MODALITIES]
    other = pickle.loads(pickle.dumps(processor))
    other.image_processor.image_mean = [0.4, 0.5, 0.5]
    other.tokenizer.model_max_length = 4
    assert not {*folders} & {*changed}
    assert not {*changed} & {_digest_folder(model, other, modality) for modality in MODALITIES}


def _digest_folder(model: PlaitPreTrainedModel, processor: PlaitProcessor, modality: str) -> str:
    from plait.training.data.feature_cache import compute_tower_digest

    return compute_tower_digest(model, model.model.towers[modality], processor, modality)


def test_calls_do_not_change_the_digest(make_model: MakeModel, processor: PlaitProcessor) -> None:
    """A tokenizer remembers the padding and truncation of its last call."""
    model = make_model()
    before = _digest_folder(model, processor, "text")
    processor(text=["is it red ?"], max_length=4, truncation=True, padding="max_length")
    assert _digest_folder(model, processor, "text") == before


def test_a_saved_and_loaded_model_finds_what_it_computed(
    make_model: MakeModel, processor: PlaitProcessor, tmp_path: Path
) -> None:
    """Saving writes the dtype into the configs."""
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for modality in MODALITIES:
        assert _digest_folder(loaded, processor, modality) == _digest_folder(model, processor, modality)


def test_read_padding_changes_the_digest(make_model: MakeModel, processor: PlaitProcessor) -> None:
    """A tokenizer without an attention mask gives its model other masks (SigLIP)."""
    model, other = make_model(), copy.deepcopy(processor)
    other.tokenizer.model_input_names = ["input_ids"]
    assert _digest_folder(model, other, "text") != _digest_folder(model, processor, "text")


def test_cuts_are_part_of_the_key(
    make_model: MakeModel, processor: PlaitProcessor, data: DataSplits, tmp_path: Path
) -> None:
    model = make_model(freeze=["text"])
    stores = [
        cache_features(model, processor, [data.train], "text", folder=tmp_path / "cache", max_length=length)
        for length in (None, 4)
    ]
    assert len(stores[1]) == 2 * len(stores[0])
    collator = PlaitDataCollator(processor, max_length=4)
    collator.features["text"] = stores[1]
    batch = collator(list(data.train))
    assert batch["encoder_outputs"]["text"]["last_hidden_state"].shape[1] == 4


def test_a_trained_tower_is_refused(
    make_model: MakeModel, make_trainer: MakeTrainer, cache: Callable[..., FeatureStore]
) -> None:
    with pytest.raises(ValueError, match=r"the text tower is not frozen .* add 'text' to frozen"):
        cache(make_model(), "text")
    with pytest.raises(ValueError, match="the image tower is not frozen"):
        make_trainer(cache_features=["image"], frozen=["text"])
    with pytest.raises(ValueError, match="no audio tower to cache: it has text, image"):
        cache(make_model(), "audio")


def test_the_text_of_masked_language_modelling_is_refused(
    make_model: MakeModel, make_trainer: MakeTrainer, processor: PlaitProcessor
) -> None:
    extra = {"data_collator": PlaitDataCollator(processor, task="masked_lm"), "compute_metrics": None}
    with pytest.raises(ValueError, match="the text inputs of the task masked_lm cannot be cached"):
        make_trainer(make_model(), extra, frozen=["text"], cache_features=["text"])


def test_the_size_is_known_before_anything_is_written(
    make_model: MakeModel, cache: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"would take about .* GiB"):
        cache(make_model(freeze=["image"]), "image", limit=1e-9)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_damaged_file_is_named(make_model: MakeModel, cache: Callable[..., FeatureStore]) -> None:
    model = make_model(freeze=["image"])
    (file,) = cache(model, "image").folder.glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{file.name} is damaged"):
        cache(model, "image")


def test_inputs_that_are_not_stored_go_through_the_tower(
    make_model: MakeModel, processor: PlaitProcessor, cache: Callable[..., FeatureStore]
) -> None:
    store = cache(make_model(freeze=["text"]), "text")
    collator = PlaitDataCollator(processor)
    collator.features["text"] = store
    batch = collator([{"text": "another one"}])
    assert "input_ids" in batch
    assert "encoder_outputs" not in batch


def test_a_worker_maps_the_files_itself(make_model: MakeModel, cache: Callable[..., FeatureStore]) -> None:
    store = cache(make_model(freeze=["text"]), "text")
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    key = next(iter(store.index))
    assert torch.equal(pickle.loads(pickled)[key].tokens, store[key].tokens)


def test_the_model_is_left_as_it_was(make_model: MakeModel, cache: Callable[..., FeatureStore]) -> None:
    model = make_model(freeze=["text"]).train()
    cache(model, "text")
    assert model.training
    assert not model.model.towers["text"].training


def test_cache_with_workers(make_model: MakeModel, make_trainer: MakeTrainer, data: DataSplits) -> None:
    trainer = make_trainer(
        make_model(),
        {"compute_metrics": Metrics(["accuracy"], SINGLE)},
        frozen=["text"],
        cache_features=["text"],
        dataloader_num_workers=1,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert "text" in batch["encoder_outputs"]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_limit_is_the_size_of_what_is_written(
    make_model: MakeModel, cache: Callable[..., FeatureStore], tmp_path: Path, batch_size: int
) -> None:
    """Estimated from the first batch: pictures of one size, in batches of any."""
    model = make_model(freeze=["image"], image={"pooling": "mean"})
    stored = cache(model, "image", folder=tmp_path / "whole")
    found = [stored[key] for key in stored.index]
    size = sum(value.nbytes for output in found for value in output if value is not None) / 2**30
    with pytest.raises(ValueError, match=f"features would take about {size:.3g} GiB in .*limit {0.999 * size:.3g}"):
        cache(model, "image", folder=tmp_path / "small", batch_size=batch_size, limit=0.999 * size)
    assert len(cache(model, "image", folder=tmp_path / "large", batch_size=batch_size, limit=1.001 * size)) == 3


def test_outputs_are_written_in_files_of_a_bounded_size(
    make_model: MakeModel, cache: Callable[..., FeatureStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as what is in memory reaches the bound; what is left comes last, and every output can be found."""
    model = make_model(freeze=["image"])
    whole = cache(model, "image", folder=tmp_path / "whole")
    one = sum(value.nbytes for value in whole[next(iter(whole.index))] if value is not None)
    for bound, files in ((one, 3), (one + 1, 2), (2 * one, 2), (3 * one, 1), (9 * one, 1)):
        monkeypatch.setattr("plait.training.data.feature_cache.SHARD_BYTES", bound)
        parts = cache(model, "image", folder=tmp_path / str(bound), batch_size=1)
        assert len(list(parts.folder.glob("*.safetensors"))) == len(parts.shards) == files
        assert parts.index.keys() == whole.index.keys()
        assert all(torch.equal(parts[key].tokens, whole[key].tokens) for key in whole.index)


def test_outputs_must_fit_on_the_disk(
    make_model: MakeModel, cache: Callable[..., FeatureStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(freeze=["image"])
    stored = cache(model, "image", folder=tmp_path / "whole")
    size = sum(value.nbytes for key in stored.index for value in stored[key] if value is not None)
    for free, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if fits:
            assert len(cache(model, "image", folder=tmp_path / "fits")) == 3
            continue
        with pytest.raises(ValueError, match=f"features would take about .*free {free / 2**30:.3g}"):
            cache(model, "image", folder=tmp_path / "full")
