"""transformers' own Trainer with our classes: it reads losses and predictions as it does those of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments, default_data_collator

from plait import (
    PlaitConfig,
    PlaitForCausalLM,
    PlaitForClassification,
    PlaitForConditionalGeneration,
    PlaitForMaskedLM,
    PlaitForPreTraining,
    PlaitForQuestionAnswering,
    PlaitForRetrieval,
)

TEXT = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENS = {"decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONFIGS: dict[type, dict[str, Any]] = {
    PlaitForClassification: {"text_config": {**TEXT, "pooling": "first"}, "num_labels": 3},
    PlaitForMaskedLM: {"text_config": TEXT},
    PlaitForQuestionAnswering: {"text_config": TEXT},
    PlaitForCausalLM: {"decoder_config": TEXT, **TOKENS},
    PlaitForConditionalGeneration: {
        "text_config": TEXT,
        "decoder_config": {**TEXT, "cross_attention": True},
        **TOKENS,
    },
}


def rows_of(model_class: type) -> Any:
    torch.manual_seed(0)
    rows = []
    for number in range(6):
        tokens = torch.randint(3, 20, (5,))
        labels: dict[str, Tensor] = {"labels": tokens}
        if model_class is PlaitForClassification:
            labels = {"labels": torch.tensor(number % 3)}
        elif model_class is PlaitForQuestionAnswering:
            labels = {"start_positions": torch.tensor(number % 4), "end_positions": torch.tensor(4)}
        # a column that no model reads: the Trainer drops it
        rows.append({"input_ids": tokens, "attention_mask": torch.ones(5, dtype=torch.long), "note": tokens, **labels})
    return rows


@pytest.mark.parametrize("model_class", CONFIGS, ids=lambda model_class: model_class.__name__)
def test_it_reports_loss_and_predictions(model_class: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, rows = model_class(PlaitConfig(**CONFIGS[model_class])).eval(), rows_of(model_class)
    arguments = TrainingArguments(str(tmp_path), per_device_eval_batch_size=4, max_steps=2, use_cpu=True)
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    model.eval()
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "note"}
    with torch.no_grad():
        expected = model(**batch)
    result: Any = trainer.predict(rows)
    assert result.metrics["test_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    logits = getattr(expected, "logits", None)
    ours = result.predictions if isinstance(result.predictions, tuple) else (result.predictions,)
    theirs = (expected.start_logits, expected.end_logits) if logits is None else (logits,)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-5)


SIDES = {
    "text_config": {**TEXT, "pooling": "mean"},
    "vision_config": {**TEXT, "image_size": 8, "patch_size": 4, "pooling": "mean"},
}
SIDES["vision_config"].pop("vocab_size")
COMPARING: dict[type, dict[str, Any]] = {
    PlaitForRetrieval: {**SIDES, "retrieval_config": {"projection_dim": 8}},
    PlaitForPreTraining: {**SIDES, "fusion_config": {"strategy": "early", **TEXT}, "objectives": {"contrastive": 1.0}},
}
COMPARING[PlaitForPreTraining]["fusion_config"].pop("vocab_size")


def asking(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of pairs that asks for the loss, as those of CLIP do: they have no labels."""
    return {**default_data_collator(rows), "return_loss": True}


@pytest.mark.parametrize("model_class", COMPARING, ids=lambda model_class: model_class.__name__)
def test_it_reports_the_loss_of_classes_that_compare(model_class: Any, tmp_path: Path) -> None:
    """The mean over batches, each of which has its own negatives. `label_names` says that no column is a label."""
    torch.manual_seed(0)
    model = model_class(PlaitConfig(**COMPARING[model_class])).eval()
    rows: Any = [
        {"input_ids": torch.randint(3, 20, (5,)), "attention_mask": torch.ones(5, dtype=torch.long),
         "pixel_values": torch.randn(3, 8, 8), "note": number} for number in range(8)
    ]  # fmt: skip
    arguments = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=4, max_steps=2, use_cpu=True, label_names=[]
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=asking)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    kept = [{name: row[name] for name in row if name != "note"} for row in rows]
    with torch.no_grad():
        expected = [model.eval()(**asking(kept[at : at + 4])).loss.item() for at in (0, 4)]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert before != pytest.approx(sum(expected) / 2, rel=1e-5)
