"""Labels copied from the input ids (LLaVA): the tokens that stand for images are never targets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer

from plait import PlaitTrainer, PlaitTrainingArguments

from ..zoo import build, inputs_of

IMAGE = 39


def draw_batch(rows: int = 3) -> dict[str, Tensor]:
    """Texts with images at their start, in their middle and twice, and labels copied from the input ids."""
    inputs = inputs_of("inline", rows)
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    return inputs


def masked(labels: Tensor) -> Tensor:
    return labels.masked_fill(labels == IMAGE, -100)


def compute_gradients(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


CHANGES: dict[str, Callable[[Any], None]] = {
    "chunked": lambda model: model.train(),
    "plain": lambda model: model.eval(),
    "called head": lambda model: model.train().lm_head.register_forward_hook(lambda *arguments: None),
}


@pytest.mark.parametrize("options", [{}, {"num_items_in_batch": 7}, {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("how", CHANGES)
def test_image_tokens_are_never_targets(how: str, options: dict[str, Any]) -> None:
    model: Any = build("PlaitForCausalLM", "inline")
    CHANGES[how](model)
    inputs = draw_batch() | options
    assert (inputs["labels"] == IMAGE).any()
    expected, gradients = compute_gradients(model, inputs | {"labels": masked(inputs["labels"])})
    loss, ours = compute_gradients(model, inputs)
    torch.testing.assert_close(loss, expected)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, msg=name)
    shifted = torch.nn.functional.pad(inputs.pop("labels")[:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(model(**inputs, shift_labels=shifted).loss.detach(), expected)


def test_a_label_at_an_image_token_is_no_target() -> None:
    model: Any = build("PlaitForCausalLM", "inline")
    inputs = draw_batch()
    changed = inputs["labels"].masked_fill(inputs["input_ids"] == IMAGE, 5)
    torch.testing.assert_close(model(**inputs | {"labels": changed}).loss, model(**inputs).loss)


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.batch = draw_batch(4)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[index] for name, values in self.batch.items()}


def test_the_trainer_counts_targets_alone(tmp_path: Path) -> None:
    """Two steps of accumulation are one batch, and as with labels whose image tokens are masked by hand."""
    losses = []
    for rows, trainer_class, by_hand in ((4, PlaitTrainer, False), (2, PlaitTrainer, False), (2, Trainer, True)):
        data, model = Rows(), build("PlaitForCausalLM", "inline")
        if by_hand:
            data.batch["labels"] = masked(data.batch["labels"])
            data.batch["labels"][:, 0] = -100
        args = PlaitTrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=rows, gradient_accumulation_steps=4 // rows,
            max_steps=1, learning_rate=0.0, logging_steps=1, use_cpu=True, save_strategy="no", disable_tqdm=True,
            remove_unused_columns=False,
        )  # fmt: skip
        trainer = trainer_class(model, args, train_dataset=data)
        trainer.train()
        losses.append(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))
    assert losses == pytest.approx([losses[0]] * 3, abs=2e-4)
