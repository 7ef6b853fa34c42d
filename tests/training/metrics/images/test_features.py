"""Features of images by the name of a tower: of plait, of a known family, wrapped."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BatchFeature,
    ConvNextConfig,
    ConvNextModel,
    RegNetConfig,
    RegNetModel,
    ViTConfig,
    ViTModel,
)
from transformers.utils import ModelOutput

import plait
from plait.configuration import PlaitVisionConfig
from plait.training.metrics.images.features import ImageFeatures

SIDE = 32
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 20, 20), dtype=np.uint8)


def images(count: int = 3) -> np.ndarray:
    return pixels(count) / 127.5 - 1


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    processor = plait.PlaitProcessor.compose(image=PlaitVisionConfig(image_size=SIDE, patch_size=8, **SIZES))
    processor.image_processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model", "width"),
    [
        (ViTModel(ViTConfig(image_size=SIDE, patch_size=8, **SIZES)), 16),
        (ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1], image_size=SIDE)), 24),
        (RegNetModel(RegNetConfig(hidden_sizes=[8, 8, 8, 12], depths=[1, 1, 1, 1], groups_width=4)), 12),
    ],
    ids=["vit", "convnext", "wrapped"],
)
def test_features_by_name_are_those_of_the_tower(model: Any, width: int, tmp_path: Path) -> None:
    features = ImageFeatures.from_pretrained(save(model, tmp_path), batch_size=2)
    found = features(images())
    assert found.shape == (3, width)
    values: Any = features.processor(images=list(pixels()), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model.eval()(pixel_values=values.reshape(3, *values.shape[-3:]))
    assert found == pytest.approx(output.pooler_output.flatten(1).numpy(), abs=1e-5)


def test_a_tower_without_a_pooler_gives_the_mean_of_its_tokens(tmp_path: Path) -> None:
    config = PlaitVisionConfig(image_size=SIDE, patch_size=8, pooling="none", **SIZES)
    model = plait.PlaitModel.compose(image=config, verbose=False)
    save(model, tmp_path)
    features = ImageFeatures.from_pretrained(tmp_path)
    found, inputs = features(images()), features.processor(images=list(pixels()), return_tensors="pt")
    with torch.no_grad():
        tokens = model(**inputs).last_hidden_state
    assert found == pytest.approx(tokens.mean(dim=1).numpy(), abs=1e-5)


def test_features_do_not_depend_on_the_batch() -> None:
    config = PlaitVisionConfig(image_size=SIDE, patch_size=8, **SIZES)
    model, processor = plait.PlaitModel.compose(image=config, verbose=False), plait.PlaitProcessor.compose(image=config)
    parts = [ImageFeatures(model, processor, batch_size=size)(images(5)) for size in (1, 5)]
    assert np.abs(parts[0] - parts[1]).max() < 1e-6
    assert parts[0].dtype == np.float32
    assert np.abs(parts[0] - parts[0][:1]).max() > 0


def test_grey_images_are_those_of_three_equal_channels(tmp_path: Path) -> None:
    features = ImageFeatures.from_pretrained(
        save(ViTModel(ViTConfig(image_size=SIDE, patch_size=8, **SIZES)), tmp_path)
    )
    grey = images()[:, :1]
    assert np.array_equal(features(grey), features(grey.repeat(3, axis=1)))


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_checkpoint_of_timm_asks_for_timm(tmp_path: Path) -> None:
    """Its config.json names an architecture and no model type."""
    content = {"architecture": "resnet18", "num_classes": 10, "num_features": 512, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ImportError, match="timm"):
        ImageFeatures.from_pretrained(tmp_path)


def test_masked_tokens_have_no_part_in_the_mean() -> None:
    """Of any model whose output has tokens and a mask; by default in batches of 64."""
    sizes: list[int] = []

    class Tokens(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, pixel_values: torch.Tensor) -> ModelOutput:
            sizes.append(len(pixel_values))
            tokens = pixel_values.flatten(1)[:, :6].view(-1, 3, 2)
            output = ModelOutput(last_hidden_state=tokens.half(), pooler_output=None)
            output["mask"] = torch.tensor([[1, 1, 0]]).expand(len(tokens), 3)
            return output

    def process(images: list[Any], return_tensors: str) -> BatchFeature:
        assert return_tensors == "pt" and all(image.mode == "RGB" for image in images)
        return BatchFeature({"pixel_values": torch.tensor(np.stack([np.asarray(image) for image in images]) / 255)})

    model: Any = Tokens().train()
    features = ImageFeatures(model, process)
    assert not model.training
    shown = np.random.default_rng(0).integers(0, 256, (65, 3, 2, 2), dtype=np.uint8)
    found = features(shown / 127.5 - 1)
    assert sizes == [64, 1] and found.shape == (65, 2) and found.dtype == np.float32
    tokens = (shown.transpose(0, 2, 3, 1) / 255).reshape(65, -1)[:, :6].reshape(65, 3, 2)
    assert found == pytest.approx(tokens[:, :2].mean(axis=1), abs=1e-3)
