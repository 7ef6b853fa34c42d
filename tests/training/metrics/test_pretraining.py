"""Losses of pretraining objectives over a split: means over the tokens predicted, in batches of any size."""

from typing import Any

import pytest
import torch
from torch import Tensor

from plait import PlaitConfig, PlaitForPreTraining
from plait.training.metrics.pretraining import ObjectiveMetrics

from ...modeling.zoo import FUSION, IMAGE, TEXT, TOKENS

WEIGHTS = {"masked_lm": 1.0, "captioning": 0.5, "masked_image": 2.0}


def model_of() -> PlaitForPreTraining:
    torch.manual_seed(0)
    decoder = {name: value for name, value in TEXT.items() if name != "type_vocab_size"} | {"cross_attention": True}
    config = PlaitConfig(
        text_config=dict(TEXT),
        vision_config=dict(IMAGE),
        decoder_config=decoder,
        fusion_config={**FUSION, "strategy": "early"},
        objectives=WEIGHTS,
        initializer_range=0.2,
        **TOKENS,
    )
    return PlaitForPreTraining(config).eval()


def rows() -> dict[str, Tensor]:
    """Six rows with from no to five masked tokens and caption tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 39, (6, 7), generator=generator)
    places = torch.arange(7)
    masked = places < torch.tensor([5, 1, 3, 0, 2, 4])[:, None]
    captions = places < torch.tensor([1, 7, 2, 4, 6, 3])[:, None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_ids_masked": ids.masked_fill(masked, 4),
        "mlm_labels": ids.masked_fill(~masked, -100),
        "labels": ids.masked_fill(~captions, -100),
        "pixel_values": torch.randn(6, 3, 16, 16, generator=generator),
        "bool_masked_pos": torch.tensor([[True, False, True, False]] * 6),
    }


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_the_batch_size_does_not_matter(size: int) -> None:
    model, whole, found = model_of(), rows(), []
    for step in (6, size):
        metrics = ObjectiveMetrics([], WEIGHTS)
        for start in range(0, 6, step):
            inputs: dict[str, Any] = {name: value[start : start + step] for name, value in whole.items()}
            records = metrics.measure_batch(model, {"inputs": {**inputs, "return_loss": True}})
            assert len(records) == len(inputs["input_ids"])
            metrics.update(records)
        found.append(metrics.compute())
    expected = model(**whole, return_loss=True)
    assert found[0]["loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    for name in WEIGHTS:
        assert found[0][name] == pytest.approx(expected.losses[name].item(), rel=1e-5)
