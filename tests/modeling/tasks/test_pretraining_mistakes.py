"""What pretraining refuses, and how it says so; hard negatives; patches of any image tower."""

import math
import re

import pytest
import torch
from torch import Tensor
from transformers import ConvNextConfig, ViTConfig

from plait import PlaitConfig, PlaitForPreTraining
from plait.configuration import PlaitCNNConfig, PlaitVisionConfig
from plait.modeling.heads.masked_image import find_patches
from plait.modeling.tasks.pretraining_matching import sample_hard_negatives

from ..zoo import DECODER, IMAGE, TEXT, TOKENS, fused
from .test_pretraining import build, config_of, losses, read

FRESH = {"text": {"text_config": TEXT}, "image": {"vision_config": IMAGE}, "both": fused("early")}
WRITER = {"text_config": TEXT, "decoder_config": {**DECODER, "cross_attention": True}, **TOKENS}


@pytest.mark.parametrize(
    ("parts", "objectives", "message"),
    [
        ("text", {"contrastive": 1}, "contrastive compares two towers, and this config has text"),
        ("image", {"matching": 1}, "matching compares two towers, and this config has image"),
        ("image", {"masked_lm": 1}, "masked_lm needs a bidirectional text tower"),
        ("text", {"masked_image": 1}, "masked_image needs an image tower, and this config has none"),
        ("both", {"captioning": 1}, "captioning needs a decoder"),
        ("both", {"matching": 0.0}, "no objective has a weight above 0"),
        ("both", {"matching": -1.0}, "weight of the objective 'matching' is -1.0"),
        ("both", {"matching": math.nan}, "weight of the objective 'matching' is nan"),
        ("both", {"maching": 1.0}, "did you mean 'matching'"),
    ],
)
def test_an_objective_that_the_parts_do_not_allow(parts: str, objectives: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PlaitForPreTraining(PlaitConfig(**FRESH[parts], objectives=objectives))


def test_a_fusion_that_does_not_fit() -> None:
    for name in ("matching", "masked_lm"):
        with pytest.raises(ValueError, match="concatenate does not"):
            PlaitForPreTraining(PlaitConfig(**fused("concatenate"), objectives={name: 1}))
    with pytest.raises(ValueError, match="late fusion does not keep"):
        PlaitForPreTraining(PlaitConfig(**fused("late"), objectives={"masked_lm": 1}))
    with pytest.raises(ValueError, match="name another query"):
        PlaitForPreTraining(config_of("cross_attention", objectives={"captioning": 1}))
    with pytest.raises(ValueError, match="another modality than text"):
        PlaitForPreTraining(PlaitConfig(**WRITER, objectives={"captioning": 1}))
    with pytest.raises(ValueError, match="nothing trains the decoder"):
        PlaitForPreTraining(config_of(objectives={"contrastive": 1}))
    with pytest.raises(ValueError, match="image_mask_ratio is 1.0"):
        PlaitConfig(**fused("early"), image_mask_ratio=1.0)


def test_a_batch_of_one(batch: dict[str, Tensor]) -> None:
    model = build()
    one = {name: value[:1] for name, value in batch.items()}
    for name in ("contrastive", "matching"):
        with pytest.raises(ValueError, match="this one has 1"):
            losses(model, one, objectives=[name])
    assert set(losses(model, one, objectives=["masked_lm", "captioning"])) == {"masked_lm", "captioning"}


def test_pairs_that_are_all_alike(batch: dict[str, Tensor]) -> None:
    """They have no negatives, and add nothing to the loss: a batch may become so by chance."""
    model, alike = build(), dict(batch)
    for name in ("input_ids", "attention_mask"):
        alike[name] = batch[name][:1].repeat(4, 1)
    assert set(losses(model, alike)) == {"masked_lm", "masked_image", "captioning"}
    output = model.train()(**alike, return_loss=True, objectives=["contrastive", "matching"])
    output.loss.backward()
    assert output.loss == 0 and not output.losses


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inputs_that_are_not_finite(batch: dict[str, Tensor], bad: float) -> None:
    batch["pixel_values"][1, 0, 3, 3] = bad
    for name in ("contrastive", "matching", "masked_lm", "captioning"):
        with pytest.raises(ValueError, match="not finite"):
            losses(build(), batch, objectives=[name])


def test_targets_that_are_missing_or_do_not_fit(batch: dict[str, Tensor]) -> None:
    model, inputs = build(), read(batch)
    with pytest.raises(ValueError, match="pass input_ids_masked and mlm_labels"):
        losses(model, inputs)
    with pytest.raises(ValueError, match="pass labels"):
        losses(model, inputs, objectives=["captioning"])
    with pytest.raises(ValueError, match="4 images of 2 x 2 patches"):
        losses(model, {**inputs, "bool_masked_pos": torch.ones(4, 5, dtype=torch.bool)}, objectives=["masked_image"])
    wide = {**inputs, "pixel_values": torch.zeros(4, 3, 16, 20)}
    with pytest.raises(ValueError, match="not a whole number of patches"):
        losses(model, wide, objectives=["masked_image"])
    with pytest.raises(ValueError, match="label 40 is no token"):
        losses(model, {**batch, "mlm_labels": batch["mlm_labels"].masked_fill(batch["mlm_labels"] >= 0, 40)})
    with pytest.raises(ValueError, match="no head for captioning"):
        losses(build(decoder=False), batch, objectives=["captioning"])
    with pytest.raises(ValueError, match="did you mean 'matching'"):
        losses(model, batch, objectives=["maching"])
    with pytest.raises(ValueError, match="none has a weight"):
        losses(model, batch, objectives=[])


def test_negatives_are_drawn_by_their_similarity() -> None:
    torch.manual_seed(0)
    similarity, same = torch.tensor([[9.0, 1.0, 0.0, 2.0]] * 4), torch.eye(4, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    counts = torch.zeros(4, 4)
    for _ in range(4000):
        drawn = sample_hard_negatives(similarity, same, training=True)
        counts[drawn.rows, drawn.partners] += 1
    expected = similarity.masked_fill(same, -math.inf).softmax(dim=1)
    torch.testing.assert_close(counts / 4000, expected, atol=0.03, rtol=0)
    assert (counts[same] == 0).all()


def test_outside_of_training_the_likeliest_negative_is_taken() -> None:
    same = torch.eye(3, dtype=torch.bool)
    even = sample_hard_negatives(torch.zeros(3, 3), same, training=False)
    assert even.partners.tolist() == [1, 2, 0]  # the next row, where all are alike
    similarity = torch.tensor([[5.0, 1.0, 2.0], [0.0, 5.0, -1.0], [3.0, 4.0, 9.0]])
    assert sample_hard_negatives(similarity, same, training=False).partners.tolist() == [2, 0, 1]
    same[0] = True
    left = sample_hard_negatives(similarity, same, training=False)
    assert left.rows.tolist() == [1, 2] and left.partners.tolist() == [0, 1]  # the first row has no negative


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CNN = {"image_size": 32, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PlaitVisionConfig(**IMAGE), (8, 8, 1)),
        (PlaitVisionConfig(image_size=[16, 32], patch_size=[4, 8], class_tokens=2, **SIZES), (4, 8, 2)),
        (PlaitCNNConfig(**CNN), (8, 8, 0)),
        (ViTConfig(image_size=16, patch_size=4, **SIZES), (4, 4, 1)),
        (ConvNextConfig(image_size=64, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]), (32, 32, 0)),
    ],
    ids=["vit", "oblong", "cnn", "wrapped vit", "wrapped convnext"],
)
def test_patches_of_any_tower_with_a_grid(config: PlaitVisionConfig, expected: tuple[int, int, int]) -> None:
    assert tuple(find_patches(config)) == expected


@pytest.mark.parametrize(
    "config",
    [PlaitCNNConfig(**CNN), ConvNextConfig(image_size=64, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])],
    ids=["cnn", "wrapped"],
)
def test_masked_image_with_any_tower(config: PlaitCNNConfig) -> None:
    """What is hidden is not seen: the loss changes with it only as the target."""
    torch.manual_seed(0)
    model = PlaitForPreTraining(PlaitConfig(vision_config=config, objectives={"masked_image": 1})).eval()
    size, head = config.image_size, model.image_head
    pictures = torch.randn(2, 3, size, size)
    masked = torch.rand(2, (size // head.patches.height) ** 2) < 0.5
    masked[:, 0], masked[:, -1] = True, False
    changed = torch.where(head.hide_patches(torch.zeros_like(pictures), masked) == 0, pictures, 5.0)
    one, other = (head.hide_patches(given, masked) for given in (pictures, changed))
    assert torch.equal(one, other) and not torch.equal(pictures, changed)
    loss = model(pixel_values=pictures, bool_masked_pos=masked).loss
    loss.backward()
    assert torch.isfinite(loss) and head.mask_patch.grad.abs().sum() > 0
