"""Two processes learn images as one does with the doubled batch, where times and noise are given."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..module_runner import run_module

WORKER = """
import sys

import torch

from plait import PlaitConfig, PlaitForImageGeneration, PlaitTrainer, PlaitTrainingArguments

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def main(folder, rows):
    torch.manual_seed(0)
    config = PlaitConfig(
        text_config={**TINY, "vocab_size": 30, "pooling": "none"},
        fusion_config=TINY,
        denoiser_config={**TINY, "image_size": 8, "patch_size": 4, "condition_dropout": 0.0},
        initializer_range=0.2,
    )
    model = PlaitForImageGeneration(config)
    drawn = torch.Generator().manual_seed(1)
    data = [
        {
            "input_ids": torch.randint(1, 30, (5,), generator=drawn),
            "attention_mask": torch.ones(5, dtype=torch.long),
            "target_pixel_values": torch.rand(3, 8, 8, generator=drawn) * 2 - 1,
            "times": torch.rand((), generator=drawn),
            "noise": torch.randn(3, 8, 8, generator=drawn),
        }
        for _ in range(16)
    ]
    arguments = PlaitTrainingArguments(
        output_dir=folder, use_cpu=True, disable_tqdm=True, save_strategy="no", report_to="none", num_train_epochs=2,
        per_device_train_batch_size=int(rows), optim="sgd", learning_rate=0.1, average_decay=0.9,
    )
    collate = lambda rows: {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    trainer = PlaitTrainer(model=model, args=arguments, train_dataset=data, data_collator=collate)
    trainer.train()
    trainer.save_model(folder)


main(*sys.argv[1:])
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node")
    for processes, rows in (("1", "4"), ("2", "2")):
        run_module(*launcher, processes, str(tmp_path / "worker.py"), str(tmp_path / processes), rows)
    one, two = (load_file(tmp_path / processes / "model.safetensors") for processes in ("1", "2"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5, msg=name)
