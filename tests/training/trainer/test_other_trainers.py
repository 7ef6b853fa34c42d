"""Models in the training loops of other libraries. TRL and Lightning are tested where they are installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from plait import PlaitProcessor
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel

MakeModel = Callable[..., PlaitPreTrainedModel]


@pytest.fixture
def mapped(processor: PlaitProcessor, rows: list[dict[str, str]]) -> Dataset:
    """The questions about squares, encoded by `datasets.map(processor)`."""
    names = sorted({row["label"] for row in rows})

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        images = [Image.open(path) for path in batch["image"]]
        encoded = processor(text=batch["text"], images=images, padding="max_length", max_length=12, return_tensors="np")
        return {**encoded, "labels": [names.index(label) for label in batch["label"]]}

    return Dataset.from_list(rows).map(encode, batched=True, remove_columns=["text", "image", "label"])


def compute_loss(model: nn.Module, data: Dataset) -> Tensor:
    with torch.no_grad():
        return model(**data.with_format("torch")[:]).loss


def test_a_raw_loop_of_accelerate_learns_and_an_average_follows(make_model: MakeModel, mapped: Dataset) -> None:
    model = make_model()
    before = compute_loss(model.eval(), mapped)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    accelerator = Accelerator(cpu=True)
    loader: Any = DataLoader(mapped.with_format("torch"), batch_size=9)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    trained, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    expected = {name: value.detach().clone() for name, value in model.named_parameters()}
    for step in range(20):
        for batch in loader:
            accelerator.backward(trained(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        average.update_parameters(model)
        kept = 0.5 if step else 0.0  # the first update copies
        expected = {n: kept * expected[n] + (1 - kept) * value.detach() for n, value in model.named_parameters()}
    assert compute_loss(model.eval(), mapped) < 0.9 * before
    for name, value in average.module.named_parameters():
        torch.testing.assert_close(value, expected[name])
    assert compute_loss(average.eval(), mapped) < before


@pytest.mark.slow
def test_lightning_trains_it(make_model: MakeModel, mapped: Dataset, tmp_path: Path) -> None:
    lightning: Any = pytest.importorskip("lightning")
    model = make_model()

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
            return self.model(**batch).loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    before = compute_loss(model.eval(), mapped)
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=20, default_root_dir=tmp_path, enable_checkpointing=False, **options)
    trainer.fit(Module(), DataLoader(mapped.with_format("torch"), batch_size=9))  # pyright: ignore[reportArgumentType]
    assert compute_loss(model.eval(), mapped) < 0.9 * before
