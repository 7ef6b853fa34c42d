"""Weights in fewer bits: of which layers, saved and loaded equal, trained beside, made plain again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plait import PlaitForClassification, PlaitForConditionalGeneration, PlaitModel, lora_config, quantize
from plait.modeling.adaptation.quantization import list_quantizable_layers
from plait.modeling.kernels.plain import is_plain_weight

from .. import zoo

torchao = pytest.importorskip("torchao.quantization")
QUICK = (("PlaitForClassification", "early"), ("PlaitForConditionalGeneration", "captioner"))
CASES = [pytest.param(case, id="-".join(case), marks=[] if case in QUICK else pytest.mark.slow) for case in zoo.CASES]


@torch.no_grad()
def run(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return zoo.main_tensor(model.eval()(**inputs)).clone()


def list_quantized(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if not is_plain_weight(weight)}


@pytest.mark.parametrize("case", CASES)
def test_every_class_is_saved_and_loaded_equal(case: tuple[str, str], tmp_path: Path) -> None:
    """Each part with another kind; plain again, the model computes the same."""
    model, inputs = zoo.build(*case), zoo.inputs_of(case[1])
    before = run(model, inputs)
    layers = list_quantizable_layers(model)
    kinds = dict(zip(layers, ["int8", "int4", "int8_dynamic"], strict=False))
    assert quantize(model, kinds) == {part: len(layers[part]) for part in kinds}
    assert list_quantized(model) == {f"{name}.weight" for part in kinds for name in layers[part]}
    after = run(model, inputs)
    assert 0 < (after - before).abs().max() < 0.5 * before.abs().max()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert list_quantized(loaded) == list_quantized(model)
    assert torch.equal(run(loaded, inputs), after)
    if "int8_dynamic" not in kinds.values():
        loaded.dequantize()
        assert not list_quantized(loaded) and not loaded.is_quantized
        torch.testing.assert_close(run(loaded, inputs), after, rtol=1e-4, atol=1e-4)
        loaded.save_pretrained(tmp_path / "plain")
        assert torch.equal(run(type(model).from_pretrained(tmp_path / "plain"), inputs), run(loaded, inputs))


def test_a_part_or_a_kind_that_is_not_there_is_an_error() -> None:
    model = zoo.build("PlaitForClassification", "early")
    for parts, message in [
        ({"txt": "int8"}, "no part with layers to quantize is 'txt'; did you mean 'text'"),
        ({"head": "int8"}, "no part with layers to quantize is 'head'; choose from text, image, fusion"),
        ({"text": "int9"}, "text is 'int9'; did you mean 'int8'"),
        ({"text": "float8"}, "text is 'float8', which needs a GPU of compute capability 8.9"),
    ]:
        with pytest.raises(ValueError, match=message):
            quantize(model, parts)
    assert not list_quantized(model)
    assert quantize(model, {}) == {}
    quantize(model, {"text": "int8"})
    with pytest.raises(ValueError, match="the weight of model.towers.text.* is a Int8Tensor already"):
        quantize(model, {"text": "int4"})


def test_parts_are_quantized_one_after_another_and_as_they_are_loaded(tmp_path: Path) -> None:
    model, inputs = zoo.build("PlaitForClassification", "early"), zoo.inputs_of("early")
    model.save_pretrained(tmp_path / "plain")
    at_once = PlaitForClassification.from_pretrained(tmp_path / "plain", quantize={"text": "int8", "image": "int4"})
    quantize(model, {"text": "int8"})
    quantize(model, {"image": "int4"})
    assert torch.equal(run(at_once, inputs), run(model, inputs))
    model.save_pretrained(tmp_path / "quantized")
    again = PlaitForClassification.from_pretrained(tmp_path / "quantized")
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(run(PlaitForClassification.from_pretrained(tmp_path / "again"), inputs), run(model, inputs))
    with pytest.raises(ValueError, match="saved by PlaitForClassification and have other names in PlaitModel: load"):
        PlaitModel.from_pretrained(tmp_path / "quantized")


@pytest.mark.parametrize("source", ["folder", "config"])
def test_a_quantization_config_leaves_out_what_must_not_be_quantized(source: str, tmp_path: Path) -> None:
    """Heads, connectors, poolers: what transformers' own rule would take."""
    from transformers import TorchAoConfig

    model = zoo.build("PlaitForConditionalGeneration", "captioner")
    model.save_pretrained(tmp_path)
    given = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    known = {"config": model.config} if source == "config" else {}
    loaded = PlaitForConditionalGeneration.from_pretrained(tmp_path, quantization_config=given, **known)
    layers = {f"{name}.weight" for names in list_quantizable_layers(model).values() for name in names}
    assert list_quantized(loaded) == layers and given.modules_to_not_convert is None
    loaded.save_pretrained(tmp_path / "quantized")
    again, inputs = PlaitForConditionalGeneration.from_pretrained(tmp_path / "quantized"), zoo.inputs_of("captioner")
    assert torch.equal(run(again, inputs), run(loaded, inputs))


def test_weights_that_cannot_be_saved_are_refused(tmp_path: Path) -> None:
    model = zoo.build("PlaitForClassification", "text")
    torchao.quantize_(model.model.towers, torchao.Int8WeightOnlyConfig())
    with pytest.raises(ValueError, match="was quantized by torchao itself"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_adapters_train_beside_quantized_weights(kind: str, tmp_path: Path) -> None:
    """Every adapter gets a gradient, and they come back on the quantized folder."""
    peft = pytest.importorskip("peft")
    zoo.build("PlaitForClassification", "early").save_pretrained(tmp_path / "plain")
    model = PlaitForClassification.from_pretrained(tmp_path / "plain", quantize={"text": kind, "image": kind})
    model.save_pretrained(tmp_path / "base")
    model = PlaitForClassification.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, lora_config(model, r=2, parts=None, init_lora_weights=False))
    inputs = zoo.inputs_of("early")
    adapted.train()(**inputs, **zoo.labels_of("PlaitForClassification", inputs)).loss.backward()
    trained = {name: parameter.grad for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any("towers.text" in name for name in trained) and any("towers.image" in name for name in trained)
    assert not [name for name, grad in trained.items() if grad is None and ".pooler." not in name]
    from transformers.trainer_utils import validate_quantization_for_training

    validate_quantization_for_training(adapted)
    adapted.save_pretrained(tmp_path / "adapters")
    loaded = peft.AutoPeftModel.from_pretrained(tmp_path / "adapters")
    assert torch.equal(run(loaded, inputs), run(adapted, inputs))
