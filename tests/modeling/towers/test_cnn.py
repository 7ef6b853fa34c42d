"""Convolutional towers: ResNet against transformers, EfficientNet-lite against a forward written from its weights."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from plait import PlaitConfig, PlaitForClassification, PlaitModel
from plait.configuration import PlaitCNNConfig
from plait.modeling.checkpoints import export, read_component, write_component
from plait.modeling.checkpoints.source import open_checkpoint
from plait.modeling.towers.cnn import ConvolutionalTower

RESNETS = {
    "basic": {"layer_type": "basic"},
    "basic-downsampled": {"layer_type": "basic", "downsample_in_first_stage": True},
    "bottleneck": {"layer_type": "bottleneck"},
    "bottleneck-first": {"layer_type": "bottleneck", "downsample_in_bottleneck": True},
    "bottleneck-downsampled": {"layer_type": "bottleneck", "downsample_in_first_stage": True, "num_channels": 1},
}
# repeats, kernel, stride, expansion and width of each stage
LITE = [(1, 3, 1, 1, 8), (2, 3, 2, 6, 12), (2, 5, 2, 6, 16), (1, 5, 1, 4, 20)]
NORM = ("running_mean", "running_var", "weight", "bias")
TINY: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}


def drawn(model: nn.Module) -> nn.Module:
    """Statistics, norms and biases too: zeros and ones would hide a fault."""
    for name, tensor in model.state_dict().items():
        draw(name, tensor)
    return model.eval()


def draw(name: str, tensor: Tensor) -> None:
    """Convolutions and norms so that the signal neither dies nor explodes through the layers."""
    if name.endswith("num_batches_tracked"):
        tensor.fill_(7)
    elif tensor.ndim == 4:
        tensor.normal_(std=tensor[0].numel() ** -0.5)
    elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
        tensor.uniform_(0.5, 1.5)
    else:
        tensor.normal_(std=0.2)


def pictures(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def save_resnet(name: str, folder: Path, head: bool = False, **options: Any) -> hf.PreTrainedModel:
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 24, 32], "depths": [2, 1, 2]}
    config = hf.ResNetConfig(**sizes, num_labels=3, **RESNETS[name])
    torch.manual_seed(0)
    model = drawn((hf.ResNetForImageClassification if head else hf.ResNetModel)(config))
    model.save_pretrained(folder, **options)
    return model


def tower_from(folder: Path) -> ConvolutionalTower:
    read = read_component(open_checkpoint(folder))
    tower = ConvolutionalTower(read.config)
    tower.load_state_dict(read.weights)
    return tower.eval()


def run(model: nn.Module, pixel_values: Tensor) -> dict[str, Tensor]:
    """Every tensor that a ResNet, ours or transformers', returns, in the shape of ours."""
    outputs = model(pixel_values, output_hidden_states=True)
    tensors = {f"hidden_states.{number}": maps for number, maps in enumerate(outputs.hidden_states)}
    last = outputs.last_hidden_state
    tensors["last_hidden_state"] = last.flatten(2).mT if last.ndim == 4 else last
    tensors["pooler_output"] = outputs.pooler_output.flatten(1)
    return {name: tensor.detach() for name, tensor in tensors.items()}


def difference(ours: Tensor, theirs: Tensor) -> float:
    theirs = theirs.double()
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()


def assert_parity(ours: dict[str, Tensor], theirs: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """1e-5 of the other result; and an error to float64 of at most twice the other's."""
    assert ours.keys() == theirs.keys()
    floor = torch.finfo(torch.float32).eps
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape
        assert difference(ours[name], tensor) <= 1e-5, name
        assert difference(ours[name], exact[name]) <= 2 * max(difference(tensor, exact[name]), floor), name


def assert_same_files(folder: Path, other: Path) -> None:
    ours, theirs = (load_file(place / "model.safetensors") for place in (folder, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
@pytest.mark.parametrize(("head", "shard"), [(False, "1GB"), (True, "1GB"), (True, "20KB")])
@pytest.mark.parametrize("name", RESNETS)
def test_resnet_matches_transformers(tmp_path: Path, name: str, head: bool, shard: str, size: tuple[int, int]) -> None:
    """From one file or several, with and without the task prefix."""
    theirs = save_resnet(name, tmp_path, head, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    base, pixel_values = theirs.resnet if head else theirs, pictures(2, theirs.config.num_channels, *size)
    expected = run(base, pixel_values)
    assert expected["last_hidden_state"].std() > 0.1
    assert_parity(run(tower_from(tmp_path), pixel_values), expected, run(base.double(), pixel_values.double()))


def test_resnet_trains_as_in_transformers(tmp_path: Path) -> None:
    """With the statistics of the batch: equal outputs, gradients, and running statistics afterwards."""
    theirs = save_resnet("bottleneck", tmp_path).train()
    ours, pixel_values = tower_from(tmp_path).train(), pictures(3, 3, 32, 32)
    expected, actual = run(theirs, pixel_values), run(ours, pixel_values)
    assert all(difference(actual[name], tensor) <= 1e-5 for name, tensor in expected.items())
    for model in (ours, theirs):
        model(pixel_values).pooler_output.square().sum().backward()
    first, other = ours.stem.entry.convolution.weight.grad, theirs.embedder.embedder.convolution.weight.grad
    assert difference(first, other) <= 1e-5
    read = read_component(open_checkpoint(tmp_path))
    write_component(read._replace(weights=dict(ours.state_dict())), tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    after, wanted = (load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert after.keys() == wanted.keys()
    assert all(difference(after[name], tensor) <= 1e-5 for name, tensor in wanted.items())
    assert after["embedder.embedder.normalization.num_batches_tracked"] == 9


@pytest.mark.parametrize("head", [False, True], ids=["bare", "prefixed"])
def test_resnet_is_exported_exactly(tmp_path: Path, head: bool) -> None:
    theirs = save_resnet("bottleneck", tmp_path / "theirs", head)
    write_component(read_component(open_checkpoint(tmp_path / "theirs")), tmp_path / "ours")
    assert_same_files(tmp_path / "ours", tmp_path / "theirs")
    again, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    pixel_values = pictures(2, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(again(pixel_values)[:2], theirs(pixel_values)[:2], strict=True))


def test_the_head_of_a_resnet_comes_along(tmp_path: Path) -> None:
    theirs = save_resnet("basic", tmp_path / "theirs", head=True)
    ours = PlaitForClassification.from_pretrained(tmp_path / "theirs")
    pixel_values = pictures(2, 3, 32, 32)
    assert difference(ours(pixel_values=pixel_values).logits, theirs(pixel_values).logits) <= 1e-5
    export(ours, tmp_path / "ours")
    assert_same_files(tmp_path / "ours", tmp_path / "theirs")


def test_a_resnet_with_another_activation_is_refused(tmp_path: Path) -> None:
    hf.ResNetModel(hf.ResNetConfig(**TINY, layer_type="basic", hidden_act="gelu")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden_act.*'gelu'"):
        read_component(open_checkpoint(tmp_path))


def save_lite(folder: Path) -> dict[str, Tensor]:
    """A tiny EfficientNet-lite with drawn weights, in the format of the published one."""
    torch.manual_seed(0)
    weights: dict[str, Tensor] = {}

    def add(convolution: str, norm: str, *shape: int) -> None:
        weights[f"{convolution}.weight"] = torch.empty(shape)
        for part in NORM:
            weights[f"{norm}.{part}"] = torch.empty(shape[0])
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(0)

    add("_conv_stem", "_bn0", 8, 3, 3, 3)
    before, number = 8, 0
    for repeats, kernel, _, expansion, width in LITE:
        for _ in range(repeats):
            block, inner = f"_blocks.{number}", before * expansion
            if expansion > 1:
                add(f"{block}._expand_conv", f"{block}._bn0", inner, before, 1, 1)
            add(f"{block}._depthwise_conv", f"{block}._bn1", inner, 1, kernel, kernel)
            add(f"{block}._project_conv", f"{block}._bn2", width, inner, 1, 1)
            before, number = width, number + 1
    add("_conv_head", "_bn1", 32, before, 1, 1)
    weights |= {"_fc.weight": torch.empty(5, 32), "_fc.bias": torch.empty(5)}
    for name, tensor in weights.items():
        draw(name, tensor)
    stages = [dict(zip(("repeats", "kernel", "stride", "expansion"), stage, strict=False)) for stage in LITE]
    config = {"architecture": "EfficientNet-Lite, tiny", "image_size": 32, "num_labels": 5, "stages": stages}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def same(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """A convolution with ceil(size / stride) places, on a canvas with the picture (nearly) in its middle."""
    kernel, places = weight.shape[-1], [-(-size // stride) for size in x.shape[2:]]
    canvas = [max((count - 1) * stride + kernel, size) for count, size in zip(places, x.shape[2:], strict=True)]
    top, left = ((outer - size) // 2 for outer, size in zip(canvas, x.shape[2:], strict=True))
    padded = x.new_zeros(*x.shape[:2], *canvas)
    padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    return F.conv2d(padded, weight, stride=stride, groups=groups)


def reference(weights: dict[str, Tensor], stages: list[dict[str, int]], x: Tensor) -> dict[str, Tensor]:
    """EfficientNet-lite from its raw weights: tokens, pooled vector, logits."""

    def step(x: Tensor, convolution: str, norm: str, stride: int = 1, groups: int = 1, act: bool = True) -> Tensor:
        x = same(x, weights[f"{convolution}.weight"], stride, groups)
        mean, variance, scale, bias = (weights[f"{norm}.{part}"][:, None, None] for part in NORM)
        x = (x - mean) / (variance + 0.001).sqrt() * scale + bias
        return x.clamp(0, 6) if act else x

    x = step(x, "_conv_stem", "_bn0", stride=2)
    strides = [1 if repeat else stage["stride"] for stage in stages for repeat in range(stage["repeats"])]
    for number, stride in enumerate(strides):
        block, before = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in weights:
            x = step(x, f"{block}._expand_conv", f"{block}._bn0")
        x = step(x, f"{block}._depthwise_conv", f"{block}._bn1", stride, x.shape[1])
        x = step(x, f"{block}._project_conv", f"{block}._bn2", act=False)
        if stride == 1 and x.shape[1] == before.shape[1]:
            x = x + before
    x = step(x, "_conv_head", "_bn1")
    tokens, pooled = x.flatten(2).mT, x.mean((2, 3))
    return {"tokens": tokens, "pooled": pooled, "logits": pooled @ weights["_fc.weight"].T + weights["_fc.bias"]}


@torch.no_grad()
def assert_lite(folder: Path, weights: dict[str, Tensor], pixel_values: Tensor) -> dict[str, Tensor]:
    """Our tokens, pooled vector and logits are those of the reference, which is returned."""
    stages = json.loads((folder / "config.json").read_text())["stages"]
    expected = reference(weights, stages, pixel_values)
    doubled = {name: tensor.double() for name, tensor in weights.items()}
    exact = reference(doubled, stages, pixel_values.double())
    model = PlaitForClassification.from_pretrained(folder)
    outputs = model.model(pixel_values=pixel_values)
    ours = {"tokens": outputs.last_hidden_state, "pooled": outputs.pooler_output}
    assert_parity(ours | {"logits": model(pixel_values=pixel_values).logits}, expected, exact)
    return expected


@pytest.mark.parametrize("size", [(32, 32), (37, 50), (9, 64), (1, 1)])
def test_efficientnet_lite_matches_its_definition(tmp_path: Path, size: tuple[int, int]) -> None:
    """Even, odd and unequal sides: `same` padding is uneven for each of them differently."""
    weights = save_lite(tmp_path / "lite")
    expected = assert_lite(tmp_path / "lite", weights, pictures(2, 3, *size))
    assert expected["tokens"].std() > 0.1


def test_efficientnet_lite_is_exported_exactly(tmp_path: Path) -> None:
    save_lite(tmp_path / "theirs")
    write_component(read_component(open_checkpoint(tmp_path / "theirs")), tmp_path / "ours")
    assert_same_files(tmp_path / "ours", tmp_path / "theirs")
    config, original = (json.loads((tmp_path / who / "config.json").read_text()) for who in ("ours", "theirs"))
    assert config == original
    export(PlaitForClassification.from_pretrained(tmp_path / "theirs"), tmp_path / "model")
    assert_same_files(tmp_path / "model", tmp_path / "theirs")


def test_efficientnet_lite_with_other_labels_is_exported_readably(tmp_path: Path) -> None:
    save_lite(tmp_path / "theirs")
    options = {"id2label": {0: "cat", 1: "dog"}, "ignore_mismatched_sizes": True}
    model = PlaitForClassification.from_pretrained(tmp_path / "theirs", **options)
    export(model, tmp_path / "ours")
    again = PlaitForClassification.from_pretrained(tmp_path / "ours")
    assert again.config.id2label == {0: "cat", 1: "dog"}
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_a_lite_config_that_does_not_fit_its_weights_is_an_error(tmp_path: Path) -> None:
    save_lite(tmp_path / "lite")
    file = tmp_path / "lite" / "config.json"
    config = json.loads(file.read_text())
    config["stages"][1]["repeats"] = 3
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="7 blocks, but the file holds 6"):
        read_component(open_checkpoint(file.parent))
    config["stages"][1] |= {"repeats": 2, "kernel": 5}
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"_blocks\.1\._depthwise_conv\.weight"):
        read_component(open_checkpoint(file.parent))


@pytest.mark.slow
@pytest.mark.skipif("PLAIT_CHECKPOINTS" not in os.environ, reason="PLAIT_CHECKPOINTS names no folder of checkpoints")
@pytest.mark.parametrize("size", [224, 191])
def test_the_real_efficientnet_lite0(tmp_path: Path, size: int) -> None:
    folder = Path(os.environ["PLAIT_CHECKPOINTS"]) / "efficientnet-lite0"
    weights = load_file(folder / "model.safetensors")
    expected = assert_lite(folder, weights, pictures(2, 3, size, size))
    assert expected["logits"].shape == (2, 1000)
    write_component(read_component(open_checkpoint(folder)), tmp_path)
    assert_same_files(tmp_path, folder)


LITE_CONFIG = {"architecture": "efficientnet_lite", "layer_type": "inverted", "head_size": 24, "hidden_act": "relu6"}


@pytest.fixture(params=[TINY, {**TINY, "layer_type": "bottleneck"}, {**TINY, **LITE_CONFIG}])
def fresh(request: pytest.FixtureRequest) -> Callable[..., PlaitForClassification]:
    def build(**fields: Any) -> PlaitForClassification:
        torch.manual_seed(0)
        vision = PlaitCNNConfig(**request.param, **fields)
        return PlaitForClassification(PlaitConfig(vision_config=vision, num_labels=3))

    return build


def test_a_fresh_tower_trains(fresh: Callable[..., PlaitForClassification]) -> None:
    model = fresh().train()
    statistics = model.state_dict()["model.towers.image.stem.entry.normalization.running_mean"].clone()
    assert not statistics.any()
    model(pixel_values=pictures(4, 3, 32, 32), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert model.model.towers.image.stem.entry.normalization.running_mean.any()


def test_a_frozen_tower_keeps_its_statistics(fresh: Callable[..., PlaitForClassification]) -> None:
    model = drawn(fresh())
    model.freeze("image")
    before = {name: tensor.clone() for name, tensor in model.model.towers.image.state_dict().items()}
    pixel_values = pictures(4, 3, 32, 32)
    still = model.eval()(pixel_values=pixel_values).logits
    assert torch.equal(model.train()(pixel_values=pixel_values).logits, still)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.towers.image.state_dict().items())


def test_save_and_reload_is_exact(fresh: Callable[..., PlaitForClassification], tmp_path: Path) -> None:
    model = drawn(fresh())
    model.save_pretrained(tmp_path)
    again = PlaitForClassification.from_pretrained(tmp_path)
    config, saved = (each.config.vision_config.to_dict() for each in (again, model))
    assert config == saved | {"dtype": config["dtype"]}
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    half = PlaitForClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    normalization = half.model.towers.image.stem.entry.normalization
    assert normalization.running_mean.dtype == torch.bfloat16
    assert normalization.num_batches_tracked.dtype == torch.int64
    assert half(pixel_values=pictures(2, 3, 32, 32)).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_settings_change_nothing(fresh: Callable[..., PlaitForClassification], attention: str) -> None:
    model, pixel_values = drawn(fresh()), pictures(2, 3, 32, 32)
    expected = model(pixel_values=pixel_values).logits
    model.set_attn_implementation(attention)
    outputs = model(pixel_values=pixel_values, output_attentions=True)
    assert torch.equal(outputs.logits, expected)
    assert not outputs.attentions


def test_pictures_do_not_depend_on_each_other(fresh: Callable[..., PlaitForClassification]) -> None:
    tower, pixel_values = drawn(fresh()).model.towers.image, pictures(3, 3, 32, 32)
    together = tower(pixel_values).pooler_output
    alone = torch.cat([tower(picture[None]).pooler_output for picture in pixel_values])
    assert difference(together, alone) <= 1e-5


def test_without_pooling_the_head_reads_the_mean_of_the_tokens(fresh: Callable[..., PlaitForClassification]) -> None:
    model, pixel_values = drawn(fresh(pooling="none")), pictures(2, 3, 32, 32)
    outputs = model.model(pixel_values=pixel_values)
    assert outputs.pooler_output is None
    expected = model.classifier(outputs.last_hidden_state.mean(1))
    assert difference(model(pixel_values=pixel_values).logits, expected) <= 1e-6


def test_a_cnn_and_a_text_tower_make_one_model(tmp_path: Path) -> None:
    save_resnet("basic", tmp_path / "resnet")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    hf.BertModel(hf.BertConfig(vocab_size=20, **sizes)).save_pretrained(tmp_path / "bert")
    model = PlaitModel.compose(text=tmp_path / "bert", image=tmp_path / "resnet", verbose=False)
    inputs = {"input_ids": torch.tensor([[2, 3, 4], [5, 6, 7]]), "pixel_values": pictures(2, 3, 32, 32)}
    outputs = model(**inputs)
    assert outputs.last_hidden_state.shape == (2, 3 + 2 * 2, 16)
    alone = tower_from(tmp_path / "resnet")(inputs["pixel_values"])
    assert torch.equal(outputs.encoder_outputs["image"].last_hidden_state, alone.last_hidden_state)


@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (2, 32, 32)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="images have shape"):
        ConvolutionalTower(PlaitCNNConfig(**TINY))(torch.zeros(shape))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="depths has 4 numbers, hidden_sizes 2"):
        PlaitCNNConfig(hidden_sizes=[8, 16])
    with pytest.raises(ValueError, match="hidden_size 32 is not the width 16"):
        PlaitCNNConfig(**TINY, hidden_size=32)
    with pytest.raises(ValueError, match="kernel_sizes must be odd, got 4"):
        PlaitCNNConfig(**TINY, kernel_sizes=[3, 4])
    with pytest.raises(TypeError, match="did you mean 'kernel_sizes'"):
        PlaitCNNConfig(**TINY, kernel_size=3)
