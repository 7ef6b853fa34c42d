"""label_smoothing_factor, in transformers' own Trainer and in ours: the smoothed loss of the labels that the model
predicts, in every class that has any."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from plait import PlaitForCausalLM, PlaitTrainer, PlaitTrainingArguments

from ...modeling.zoo import CLASSES, build, config_of, inputs_of, labels_of

EPSILON = 0.2
CASES = [
    ("PlaitForCausalLM", "decoder"),
    ("PlaitForCausalLM", "inline"),
    ("PlaitForConditionalGeneration", "translator"),
    ("PlaitForConditionalGeneration", "captioner"),
    ("PlaitForMaskedLM", "text"),
    ("PlaitForMaskedLM", "early"),
    ("PlaitForClassification", "text"),
    ("PlaitForClassification", "early"),
]


class Subclass(PlaitForCausalLM):
    """A user's own class, of another name."""


def batch_of(class_name: str, shape: str) -> dict[str, Tensor]:
    inputs = inputs_of(shape)
    return inputs | labels_of(class_name, inputs)


def smoothed(model: Any, batch: dict[str, Tensor]) -> float:
    """By torch's own cross-entropy, over the logits and the labels that they predict."""
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    labels = batch["labels"]
    if isinstance(model, PlaitForCausalLM):
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=EPSILON).item()


def evaluated(kind: type[Trainer], model: Any, batch: dict[str, Tensor], folder: Path, collator: Any = None) -> float:
    arguments = PlaitTrainingArguments if kind is PlaitTrainer else TrainingArguments
    options = {"use_cpu": True, "label_smoothing_factor": EPSILON, "remove_unused_columns": False}
    rows: Any = [{"row": number} for number in range(3)]
    trainer = kind(
        model,
        arguments(str(folder), **options),
        data_collator=collator or (lambda rows: dict(batch)),
        eval_dataset=rows,
    )
    return trainer.evaluate()["eval_loss"]


@pytest.mark.parametrize("kind", [Trainer, PlaitTrainer])
@pytest.mark.parametrize(("class_name", "shape"), CASES)
def test_the_smoothed_loss_is_that_of_the_predicted_labels(
    class_name: str, shape: str, kind: type[Trainer], tmp_path: Path
) -> None:
    model, batch = build(class_name, shape), batch_of(class_name, shape)
    assert evaluated(kind, model, batch, tmp_path) == pytest.approx(smoothed(model, batch), rel=1e-5)


@pytest.mark.parametrize("kind", [Trainer, PlaitTrainer])
def test_also_of_a_class_derived_from_ours(kind: type[Trainer], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, batch = Subclass(config_of("decoder")).eval(), batch_of("PlaitForCausalLM", "decoder")
    assert evaluated(kind, model, batch, tmp_path) == pytest.approx(smoothed(model, batch), rel=1e-5)


def test_an_encoder_decoder_needs_its_text(tmp_path: Path) -> None:
    """The Trainer takes the labels from the batch: transformers' collator then gives the text, or there is an error."""
    model = build("PlaitForConditionalGeneration", "translator")
    batch = batch_of("PlaitForConditionalGeneration", "translator")
    batch.pop("decoder_input_ids")
    with pytest.raises(ValueError, match="withholds the labels: use PlaitTrainer, or DataCollatorForSeq2Seq"):
        evaluated(Trainer, model, batch, tmp_path)
    expected = evaluated(PlaitTrainer, model, batch, tmp_path)
    collator = DataCollatorForSeq2Seq(None, model=model, padding=False)

    def with_text(rows: Any) -> dict[str, Tensor]:
        text = collator.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        return {**batch, "decoder_input_ids": text}

    assert evaluated(Trainer, model, batch, tmp_path, with_text) == pytest.approx(expected, rel=1e-5)


def test_every_class_with_one_label_for_each_prediction_is_here() -> None:
    assert {name for name in CLASSES if "labels" in batch_of(name, shape_of(name))} == {name for name, _ in CASES}


def shape_of(class_name: str) -> str:
    return {"PlaitForRetrieval": "apart", **dict(CASES)}.get(class_name, "early")
