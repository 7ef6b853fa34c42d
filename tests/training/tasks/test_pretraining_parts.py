"""The pieces of pretraining: what a recipe and its data need, captions, rows of texts."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from plait import PlaitProcessor
from plait.configuration.objectives import OBJECTIVES
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import build_section
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.pretraining import PreTraining, PreTrainingSettings, build_caption_labels
from plait.training.tasks.registry import find_task

TASK: Any = find_task("pretraining")
BOTH = {"text": "a/model", "image": "a/model"}


def build(model: dict[str, Any], **objectives: float) -> Any:
    content = {"task": "pretraining", "model": model, "data": {"source": "some/data"}}
    return build_recipe({**content, "settings": {"objectives": objectives} if objectives else {}})


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("matching", {"text", "image"}),
        ("contrastive", {"text", "image"}),
        ("masked_lm", {"text"}),
        ("masked_image", {"image"}),
        ("captioning", {"image", "decoder"}),
    ],
)
def test_each_objective_needs_its_parts_of_the_model(name: str, parts: set[str]) -> None:
    assert name in OBJECTIVES
    TASK.check_recipe(build(dict.fromkeys(parts, "a/model"), **{name: 1.0}))
    for part in parts:
        left = dict.fromkeys(parts - {part}, "a/model") or {"decoder": "a/model"}
        with pytest.raises(RecipeError, match=rf"model\.{part} is missing, which settings.objectives \({name}\)"):
            TASK.check_recipe(build(left, **{name: 1.0}))
        with_audio = {**left, "audio": "a/model"}
        if part == "decoder":
            with pytest.raises(RecipeError, match="model.decoder is missing"):
                TASK.check_recipe(build(with_audio, **{name: 1.0}))
        else:
            TASK.check_recipe(build(with_audio, **{name: 1.0}))
    TASK.check_recipe(build({"from_pretrained": "a/model"}, **{name: 1.0}))


def test_defaults_of_the_settings() -> None:
    settings = TASK.build_settings({})
    assert settings == PreTrainingSettings({"contrastive": 1.0, "matching": 1.0, "masked_lm": 1.0}, 0.6, 0.15, None)
    fields = TASK.build_model_fields(build(BOTH))
    assert fields == {"objectives": settings.objectives, "image_mask_ratio": 0.6}
    assert TASK.build_model_fields(build(BOTH, matching=0.5))["objectives"] == {"matching": 0.5}


def test_masked_inputs_are_not_cached() -> None:
    settings = TASK.build_settings({"objectives": {"masked_lm": 1.0}})
    assert not TASK.is_cacheable("text", settings) and TASK.is_cacheable("image", settings)
    settings = TASK.build_settings({"objectives": {"masked_image": 1.0}})
    assert TASK.is_cacheable("text", settings) and not TASK.is_cacheable("image", settings)
    assert TASK.is_cacheable("audio", settings)


def arguments(size: int = 2, world: int = 1, drop: bool = False, tokens: int | None = None) -> Any:
    return SimpleNamespace(train_batch_size=size, world_size=world, dataloader_drop_last=drop, tokens_per_batch=tokens)


@pytest.mark.parametrize(
    ("rows", "options", "fits"),
    [(4, {}, True), (5, {}, False), (5, {"drop": True}, True), (5, {"tokens": 64}, True), (4, {"size": 1}, False),
     (6, {"size": 4}, True), (5, {"size": 4}, False), (5, {"world": 2}, False), (7, {"world": 2}, True),
     (4, {"size": 1, "drop": True}, False)],
)  # fmt: skip
def test_no_pair_is_alone_in_its_batch(rows: int, options: dict[str, Any], fits: bool) -> None:
    data = Dataset.from_dict({"text": ["a"] * rows, "image": ["b"] * rows})
    for name in ("contrastive", "matching"):
        if fits:
            TASK.check_training(data, arguments(**options), build(BOTH, **{name: 1.0}))
            continue
        with pytest.raises(RecipeError, match=f"training: {rows} pairs in batches of"):
            TASK.check_training(data, arguments(**options), build(BOTH, **{name: 1.0}))
    TASK.check_training(data, arguments(**options), build(BOTH, masked_lm=1.0, masked_image=1.0))


def test_each_objective_needs_its_columns() -> None:
    texts, images = Dataset.from_dict({"text": ["a"] * 4}), Dataset.from_dict({"image.first": ["a"] * 4})
    TASK.check_training(texts, arguments(), build(BOTH, masked_lm=1.0))
    TASK.check_training(images, arguments(), build(BOTH, masked_image=1.0))
    for name in ("contrastive", "matching", "captioning", "masked_image"):
        model = {**BOTH, "decoder": "a/model"}
        with pytest.raises(RecipeError, match=f"data.columns has no image, which {name} need"):
            TASK.check_training(texts, arguments(), build(model, **{name: 1.0}))
    for name in ("contrastive", "matching", "captioning", "masked_lm"):
        with pytest.raises(RecipeError, match=f"data.columns has no text, which {name} need"):
            TASK.check_training(images, arguments(), build({**BOTH, "decoder": "a/model"}, **{name: 1.0}))
    TASK.check_columns(["text"], "train")
    TASK.check_columns(["image.first"], "train")
    with pytest.raises(RecipeError, match="needs a column for text or image, but 'train' has label, other"):
        TASK.check_columns(["label", "other"], "train")


def test_a_row_for_each_text() -> None:
    data = Dataset.from_dict({"text": [["a", "b"], [], ["c"]], "number": [0, 1, 2]})
    prepared = TASK.prepare(data, "train", None, build(BOTH))
    assert prepared.to_dict() == {"number": [0, 0, 1, 2], "text": ["a", "b", None, "c"]}
    alone = TASK.prepare(data.select_columns(["text"]), "train", None, build(BOTH))
    assert alone.to_dict() == {"text": ["a", "b", None, "c"]}
    for unchanged in (Dataset.from_dict({"text": ["a", None]}), Dataset.from_dict({"number": [1]})):
        assert TASK.prepare(unchanged, "train", None, build(BOTH)) is unchanged


def collator(processor: PlaitProcessor, **settings: Any) -> Any:
    made = build_section(TASK.settings, settings, "settings")
    return SimpleNamespace(processor=processor, settings=made, seed=0, encode_inputs=lambda rows: dict(
        processor(text=[row["text"] or "" for row in rows], return_tensors="pt")))  # fmt: skip


def test_captions_of_rows_without_a_text_are_unknown(processor: PlaitProcessor) -> None:
    rows = [{"text": None}, {"text": "is it red ?"}, {"text": ""}, {}]
    labels = build_caption_labels(collator(processor), rows)["labels"]
    whole = build_caption_labels(collator(processor), rows[1:2])["labels"]
    assert labels.shape == (4, whole.shape[1]) and torch.equal(labels[1], whole[0])
    assert (labels[[0, 2, 3]] == -100).all() and (whole >= 0).all()
    short = build_caption_labels(collator(processor, max_target_length=3), rows)["labels"]
    assert short.shape == (4, 3)
    nothing = build_caption_labels(collator(processor), [{"text": None}, {}])["labels"]
    assert nothing.tolist() == [[-100], [-100]] and nothing.dtype == torch.long


def test_the_share_of_masked_words_is_the_settings(processor: PlaitProcessor) -> None:
    rows = [{"text": "what colour is it ?"}] * 40
    shares = []
    for share in (0.15, 0.8):
        made = collator(processor, objectives={"masked_lm": 1.0}, mlm_probability=share)
        batch = PreTraining().build_batch(made, rows)
        again = PreTraining().build_batch(made, rows)
        assert torch.equal(batch["mlm_labels"], again["mlm_labels"]) and batch["return_loss"] is True
        chosen = batch["mlm_labels"] != -100
        assert torch.equal(batch["mlm_labels"][chosen], batch["input_ids"][chosen])
        assert torch.equal(batch["input_ids_masked"][~chosen], batch["input_ids"][~chosen])
        assert not torch.equal(batch["input_ids_masked"], batch["input_ids"])
        special = torch.isin(batch["input_ids"], torch.tensor(processor.tokenizer.all_special_ids))
        shares.append(float(chosen.sum() / (~special).sum()))
    assert shares == pytest.approx([0.15, 0.8], abs=0.08)
    plain = PreTraining().build_batch(collator(processor, objectives={"contrastive": 1.0}), rows)
    assert not {"input_ids_masked", "mlm_labels", "labels"} & plain.keys()


def test_always_no_is_right_for_two_of_three_pairs() -> None:
    metrics = TASK.build_metrics([], None, None, build(BOTH, matching=1.0))
    assert TASK.measure_baselines(metrics, None, None) == {"always_no": {"matching_accuracy": 2 / 3}}
    other = TASK.build_metrics([], None, None, build(BOTH, masked_lm=1.0))
    assert TASK.measure_baselines(other, None, None) == {}
    assert TASK.find_hub_task(("text", "image")) == "feature-extraction"
