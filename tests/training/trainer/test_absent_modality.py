"""A modality that one process has and the other has not: nobody waits, and no tower runs for nothing."""

from pathlib import Path

import pytest

from ..module_runner import run_module

WORKER = """
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from plait import PlaitConfig, PlaitForClassification

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def build(strategy):
    torch.manual_seed(0)
    return PlaitForClassification(
        PlaitConfig(
            text_config={**TINY, "vocab_size": 30, "pooling": "none"},
            vision_config={**TINY, "image_size": 16, "patch_size": 8, "pooling": "none"},
            audio_config={**TINY, "num_mel_bins": 4, "max_source_positions": 4, "pooling": "none"},
            fusion_config={**TINY, "strategy": strategy},
            num_labels=3,
            initializer_range=0.2,
        )
    ).train()


def batch(seed, modalities):
    made = torch.Generator().manual_seed(seed)
    inputs = {
        "text": {"input_ids": torch.randint(0, 30, (2, 5), generator=made)},
        "image": {"pixel_values": torch.randn(2, 3, 16, 16, generator=made)},
        "audio": {"input_features": torch.randn(2, 3, 4, 8, generator=made)},
    }
    inputs["audio"]["audio_present"] = torch.tensor([[True, False, True], [False, False, modalities != ("text",)]])
    chosen = {name: value for modality in modalities for name, value in inputs[modality].items()}
    return {**chosen, "labels": torch.tensor([0, 1])}


def loss_of(model, inputs, singly):
    # with the losses of every modality alone, or without
    outputs = model(**inputs, each_alone=singly)
    for rows, logits in (outputs.alone or {}).values():
        outputs.loss = outputs.loss + torch.nn.functional.cross_entropy(logits, inputs["labels"][rows])
    return outputs.loss


def main(folder):
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    for strategy, singly in (("early", False), ("early", True), ("bottleneck", False), ("tensor", True)):
        alone, model = build(strategy), build(strategy)
        parallel = DistributedDataParallel(model)  # and no search for weights without a gradient
        runs = dict.fromkeys(model.model.towers, 0)
        for modality, tower in model.model.towers.items():
            tower.register_forward_hook(lambda *_, modality=modality: runs.update({modality: runs[modality] + 1}))
        steps = [(("text", "image"), ("text",)), (("audio",), ("image", "text")), (("text",), ("text",))]
        for step, given in enumerate(steps):
            parallel.zero_grad()
            runs.update(dict.fromkeys(runs, 0))
            loss_of(parallel, batch(10 * step + rank, given[rank]), singly).backward()
            assert runs == {m: int(m in given[rank]) for m in runs}, (rank, given, runs)
            alone.zero_grad()
            for other, modalities in enumerate(given):
                (loss_of(alone, batch(10 * step + other, modalities), singly) / 2).backward()
            for (name, weight), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
                want = torch.zeros_like(weight) if expected.grad is None else expected.grad
                torch.testing.assert_close(weight.grad, want, atol=1e-6, rtol=1e-5, msg=f"{strategy} {step} {name}")
    dist.barrier()
    (Path(folder) / f"done-{rank}").touch()
    dist.destroy_process_group()


main(sys.argv[1])
"""


@pytest.mark.slow
def test_processes_with_different_modalities_train_together(tmp_path: Path) -> None:
    """Plain DistributedDataParallel; gradients are the mean of what each batch gives alone."""
    (tmp_path / "worker.py").write_text(WORKER)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run_module(*launcher, str(tmp_path / "worker.py"), str(tmp_path))
    assert all((tmp_path / f"done-{rank}").exists() for rank in range(2))
