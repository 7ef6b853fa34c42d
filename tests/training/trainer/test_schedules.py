"""Learning rates by layer, and parts that are unfrozen during training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from plait import PlaitTrainer, PlaitTrainingArguments, parameter_groups
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.modeling import PlaitForClassification
from plait.modeling.backbone.parts import group_parameters_by_part
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel

MakeModel = Callable[..., PlaitPreTrainedModel]


def test_a_layer_learns_slower_the_lower_it_lies() -> None:
    text = PlaitTextConfig(vocab_size=20, hidden_size=16, num_hidden_layers=3, num_attention_heads=2)
    image = PlaitVisionConfig(image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = PlaitForClassification.compose(text=text, image=image, labels=2, verbose=False)
    groups = parameter_groups(model, {"text": 1e-2}, learning_rate=1e-3, layer_decay=0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == sum(1 for _ in model.parameters())
    expected = {
        "embeddings": 1e-2 / 16,
        "layers.0": 1e-2 / 8,
        "layers.1": 1e-2 / 4,
        "layers.2": 1e-2 / 2,
        "output_norm": 1e-2,
    }
    found = dict.fromkeys(expected, 0)
    for name, parameter in model.named_parameters():
        path = name.removeprefix("model.towers.text.").removeprefix("transformer.")
        place = next((place for place in expected if name != path and path.startswith(place)), None)
        if place is not None:
            found[place] += 1
            assert rates[id(parameter)] == pytest.approx(expected[place]), name
        elif "towers" not in name:
            assert rates[id(parameter)] == 1e-3, name
    assert all(found.values()), found
    whole = [group["lr"] for group in parameter_groups(model, learning_rate=1e-3, layer_decay=1.0)]
    assert set(whole) == {1e-3}
    with pytest.raises(ValueError, match="'text' has no learning rate: pass learning_rate"):
        parameter_groups(model, layer_decay=0.5)


class Watch(TrainerCallback):
    """Keeps a copy of the text tower's weights and the rates after each step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_step_end(self, *args: Any, model: Any, **kwargs: Any) -> None:
        parts = group_parameters_by_part(model)
        self.steps.append(torch.cat([each.detach().flatten().clone() for each in parts["text"].values()]))


def run(make_model: MakeModel, folder: Path, batch: dict[str, Any], **options: Any) -> tuple[PlaitTrainer, Watch]:
    watch = Watch()
    args = PlaitTrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=4, learning_rate=1e-2, **options
    )
    data: Any = [{}] * 8
    model = make_model()
    trainer = PlaitTrainer(model, args, data_collator=lambda rows: batch, train_dataset=data, callbacks=[watch])
    trainer.train()
    return trainer, watch


@pytest.fixture
def batch() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "input_ids": torch.randint(1, 20, (2, 4)),
        "pixel_values": torch.randn(2, 3, 16, 16),
        "labels": torch.tensor([0, 1]),
    }


def test_a_part_is_trained_from_its_share_of_the_steps_on(
    make_model: MakeModel, batch: dict[str, Any], tmp_path: Path
) -> None:
    before = torch.cat([each.detach().flatten() for each in group_parameters_by_part(make_model())["text"].values()])
    trainer, watch = run(make_model, tmp_path, batch, unfreeze={"text": 0.5}, weight_decay=0.1)
    changed = [not torch.equal(step, last) for last, step in zip([before, *watch.steps], watch.steps, strict=False)]
    assert changed == [False, False, True, True]
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_the_rate_of_a_part_is_that_of_its_top(make_model: MakeModel, batch: dict[str, Any], tmp_path: Path) -> None:
    trainer, _ = run(make_model, tmp_path, batch, layer_decay=0.5, lr_scheduler_type="constant", logging_steps=1)
    assert trainer.state.log_history[0]["learning_rate_text"] == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unfreeze": {"txt": 0.5}}, "unknown part 'txt'"),
        ({"unfreeze": {"text": 1.0}}, "the share of 'text' is 1.0: expected more than 0 and less than 1"),
        ({"unfreeze": {"text": 0.5}, "frozen": ["text"]}, "'text' is in unfreeze and in frozen"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0: expected more than 0 and at most 1"),
        ({"layer_decay": 0.5, "optim": "muon"}, "layer_decay is 0.5, but optim is 'muon'"),
    ],
)
def test_contradictions_of_schedules_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlaitTrainingArguments(str(tmp_path), use_cpu=True, **options)
