"""Evaluation on every set of present modalities."""

import pytest
import torch
from datasets import Dataset

from plait.training.trainer.modality_patterns import (
    ModalityPatternDataset,
    find_column_modality,
    has_content,
    list_modality_patterns,
)


def test_patterns_are_all_sets_but_the_whole() -> None:
    assert list_modality_patterns({"audio", "text", "image"}) == [
        ("text",),
        ("image",),
        ("audio",),
        ("text", "image"),
        ("text", "audio"),
        ("image", "audio"),
    ]
    assert list_modality_patterns({"text"}) == []


@pytest.mark.parametrize(
    ("column", "modality"),
    [("text_pair", "text"), ("image.1", "image"), ("image_id", "image"), ("label", None), ("imagery", None)],
)
def test_columns_belong_to_their_modality(column, modality) -> None:
    assert find_column_modality(column) == modality


def test_rows_without_anything_left_are_left_out() -> None:
    rows = {"text": ["a", None, "c"], "image": [["x"], [None], []], "image_id": ["1", "2", "3"], "label": [0, 1, 2]}
    data = Dataset.from_dict(rows)
    image, text = ModalityPatternDataset(data, ("image",)), ModalityPatternDataset(data, ("text",))
    assert [dict(image[n]) for n in range(len(image))] == [{"image": ["x"], "image_id": "1", "label": 0}]
    assert [text[n]["text"] for n in range(len(text))] == ["a", "c"]
    assert text.column_names == ["text", "label"]
    assert not has_content([None, []]) and has_content("") and has_content([None, "x"])


@pytest.fixture
def gaps(data) -> Dataset:
    rows = [dict(row) for row in data.train]
    rows[3]["image"], rows[5]["text"] = None, None
    return Dataset.from_list(rows)


def test_every_pattern_is_measured_as_if_the_others_were_not_there(make_trainer, gaps) -> None:
    trainer = make_trainer(trainer={"eval_dataset": gaps}, eval_modality_patterns=True, per_device_eval_batch_size=4)
    results = trainer.evaluate()
    for modality in ("text", "image"):
        other = {"text": "image", "image": "text"}[modality]
        rows = [row for row in gaps if row[modality] is not None]
        cut = [{name: value for name, value in row.items() if name != other} for row in rows]
        batch = trainer.data_collator(cut)
        with torch.no_grad():
            output = trainer.model(**batch)
        right = (output.logits.argmax(-1) == batch["labels"]).float().mean().item()
        assert results[f"eval_{modality}_accuracy"] == pytest.approx(right)
        assert results[f"eval_{modality}_loss"] == pytest.approx(output.loss.item(), rel=1e-4)
        assert results[f"eval_{modality}_rows"] == len(rows) == 8
    assert {"eval_accuracy", "eval_loss"} <= results.keys()


def test_patterns_are_logged_during_training_and_may_choose_the_best_model(make_trainer, gaps) -> None:
    trainer = make_trainer(
        trainer={"eval_dataset": gaps}, eval_modality_patterns=True, eval_strategy="epoch", num_train_epochs=2
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_image_accuracy" in entry]
    assert [entry["epoch"] for entry in logged] == [1.0, 2.0]


def test_without_the_switch_nothing_is_added(make_trainer) -> None:
    assert not [name for name in make_trainer().evaluate() if "text" in name or "image" in name]


def test_a_collator_of_ones_own_is_an_error(make_trainer, data) -> None:
    trainer = make_trainer(eval_modality_patterns=True)
    collator = trainer.data_collator
    trainer.data_collator = lambda rows: collator(rows)
    with pytest.raises(ValueError, match="PlaitDataCollator"):
        trainer.evaluate()
