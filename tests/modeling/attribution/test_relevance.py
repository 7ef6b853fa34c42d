"""Relevance through whole models."""

from typing import Any

import pytest
import torch

from plait import PlaitConfig, PlaitForClassification
from plait.modeling.attribution.relevance import compute_relevance
from plait.modeling.attribution.relevance_rules import GradientRule, RolloutRule
from plait.modeling.attribution.state import explained
from plait.modeling.attribution.target import Target

from ...compatibility.tiny_models import CONNECTORS, FUSIONS, IMAGE, TEXT, build, fill_with_numbers, join_towers
from ...compatibility.tiny_models import list_tiny_models as list_models

CLASS = Target("class", torch.tensor([1]))
ROW = {"input_ids": torch.tensor([[4, 7, 9]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
ROW["pixel_values"] = torch.randn(1, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def build_classifier(**config: Any) -> Any:
    torch.manual_seed(0)
    return fill_with_numbers(PlaitForClassification(PlaitConfig(**config)))


@pytest.mark.parametrize("strategy", FUSIONS)
def test_relevance_of_every_fusion(strategy: str) -> None:
    """Every tower gets a share; what rollout reads from the tokens sums to one, but for learned shared tokens."""
    model = build_classifier(**join_towers(strategy))
    with explained(model):
        rollout = compute_relevance(model, ROW, CLASS, RolloutRule())
        relevance = compute_relevance(model, ROW, CLASS, GradientRule())
    assert [len(rollout["text"]), len(rollout["image"])] == [3, 5] == [len(relevance["text"]), len(relevance["image"])]
    assert all(bool((one >= 0).all()) and bool(one.any()) for one in (*rollout.values(), *relevance.values()))
    total = sum(one.sum().item() for one in rollout.values())
    assert 0 < total < 1 if strategy == "bottleneck" else total == pytest.approx(1)


@pytest.mark.parametrize("connector", CONNECTORS)
def test_relevance_passes_connectors(connector: str) -> None:
    model = build_classifier(**join_towers("co_attention", connector=connector))
    with explained(model):
        for rule in (RolloutRule(), GradientRule()):
            found = compute_relevance(model, ROW, CLASS, rule)
            assert {name: len(one) for name, one in found.items()} == {"text": 3, "image": 5}
            assert all(bool(one.any()) for one in found.values())


def test_one_tower_is_the_product_of_its_layers() -> None:
    """Of the class token that the head reads: the first row of the paper's product, with heads by their gradients."""
    model = build_classifier(vision_config=IMAGE | {"num_hidden_layers": 2, "pooling": "first"})
    with explained(model):
        found = compute_relevance(model, {"pixel_values": ROW["pixel_values"]}, CLASS, GradientRule())["image"]
        x = ROW["pixel_values"].clone().requires_grad_()
        outputs = model(pixel_values=x, output_attentions=True)
        gradients = torch.autograd.grad(outputs.logits.log_softmax(dim=-1)[0, 1], outputs.attentions)
    matrix = torch.eye(5)
    for weights, gradient in zip(outputs.attentions, gradients, strict=True):
        matrix = matrix + (weights * gradient).clamp(min=0)[0].mean(dim=0) @ matrix
    torch.testing.assert_close(found.float(), matrix[0].detach())


def test_a_closed_gate_gives_no_relevance() -> None:
    """The image behind a gate of zero does not change the score."""
    towers = join_towers("gated_cross_attention", num_hidden_layers=2)
    torch.manual_seed(0)
    model = PlaitForClassification(PlaitConfig(**towers)).eval()
    with explained(model):
        found = compute_relevance(model, ROW, CLASS, GradientRule())
    assert found["text"].any() and not found["image"].any()


@pytest.mark.parametrize("name", ["generation_text_image", "generation_image", "causal_lm_image"])
def test_decoders(name: str) -> None:
    """The sum of what rollout finds in the context and in the decoder's own text is one: less for the context."""
    tiny = list_models()[name]
    model = build(tiny)
    inputs = {key: value[:1] for key, value in tiny.inputs.items() if key != "labels"}
    text = inputs["input_ids"] if name == "causal_lm_image" else inputs["decoder_input_ids"]
    target = Target("tokens", torch.where(torch.arange(text.shape[1]) == text.shape[1] - 1, 5, -100)[None])
    with explained(model):
        for rule in (RolloutRule(), GradientRule()):
            found = compute_relevance(model, inputs, target, rule)
            assert all(bool(one.any()) and bool((one >= 0).all()) for one in found.values())
    assert ("image" in found) == ("image" in name)


def test_tokens_that_are_not_read_are_an_error() -> None:
    """A head on the final state of a GRU reads no token."""
    audio = {"model_type": "plait_rnn", "num_mel_bins": 4, "rnn_type": "gru", "rnn_size": 4, "pooling": "final"}
    model = build_classifier(audio_config=audio | {"num_hidden_layers": 1, "bidirectional": False})
    with explained(model), pytest.raises(ValueError, match='by the last tokens.*method="occlusion"'):
        compute_relevance(model, {"input_features": torch.rand(1, 1, 4, 6)}, CLASS, RolloutRule())


def test_windows_are_an_error() -> None:
    """Swin attends inside windows: (windows, heads, tokens, tokens)."""
    swin = {"model_type": "swin", "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1]}
    model = build_classifier(vision_config=swin | {"num_heads": [2, 2], "window_size": 2})
    with explained(model), pytest.raises(ValueError, match="among all its tokens"):
        compute_relevance(model, {"pixel_values": torch.rand(1, 1, 3, 16, 16)}, CLASS, RolloutRule())


def test_towers_with_two_layers_pass_a_fusion() -> None:
    """A word is relevant beyond its own token: the text tower mixes its words before the fusion."""
    deep = {"text_config": TEXT | {"num_hidden_layers": 2}, "vision_config": IMAGE}
    model = build_classifier(**(join_towers("early", num_hidden_layers=2) | deep))
    with explained(model):
        found = compute_relevance(model, ROW, CLASS, RolloutRule())
    assert found["text"].sum().item() + found["image"].sum().item() == pytest.approx(1)
    assert found["text"].std() > 1e-4
