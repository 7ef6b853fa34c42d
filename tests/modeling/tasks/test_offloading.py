"""A model of every class may be cut anywhere into what stays in memory and what is offloaded to disk; quantized weights
are computed by their own modules."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from plait import PlaitConfig, PlaitForConditionalGeneration, PlaitModel
from plait.configuration import PlaitWaveformConfig

from .. import zoo

SHAPES = {
    "PlaitForClassification": "cross_attention",
    "PlaitForMaskedLM": "text",
    "PlaitForPreTraining": "early",
    "PlaitForQuestionAnswering": "text",
    "PlaitForCausalLM": "inline",
    "PlaitForConditionalGeneration": "captioner",
    "PlaitForRetrieval": "apart",
}
CASES = [*SHAPES.items()]
ALL = [pytest.param(case, id="-".join(case), marks=pytest.mark.slow) for case in zoo.CASES]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WAVES = {"conv_dim": [8, 8], "conv_kernel": [4, 3], "conv_stride": [2, 2], "num_conv_pos_embeddings": 4}


def find_parts(name: str, module: nn.Module, whole: set[str]) -> Iterator[str]:
    """The names of the smallest modules that may be offloaded alone."""
    children = [] if type(module).__name__ in whole else [*module.named_children()]
    if [*module.state_dict()] and not children:
        yield name
    for child, part in children:
        yield from find_parts(f"{name}.{child}".removeprefix("."), part, whole)


def list_cuts(model: Any) -> list[dict[str, str]]:
    """Device maps: for every number, that many parts stay in memory. (A tied output layer is where its embedding is, as
    in transformers' device maps.)"""
    parts = [*find_parts("", model, model._no_split_modules)]
    cuts = [{part: "cpu" if n < kept else "disk" for n, part in enumerate(parts)} for kept in range(len(parts))]
    tied = {name.rpartition(".")[0]: source.rpartition(".")[0] for name, source in model.all_tied_weights_keys.items()}
    return [cut | {head: cut[embedding] for head, embedding in tied.items()} for cut in cuts]


def answer(model: Any, case: tuple[str, str]) -> Tensor:
    inputs = zoo.inputs_of(case[1])
    if case[1] not in zoo.GENERATING.get(case[0], ()):
        return zoo.main_tensor(model(**inputs))
    inputs.pop("decoder_input_ids", None)
    options = {"max_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True}
    return torch.stack(model.generate(**inputs, **options).logits)


def check_cuts(case: tuple[str, str], folder: Path, every: int) -> None:
    model = zoo.build(*case)
    if model.can_generate():
        model.generation_config = GenerationConfig(**zoo.TOKENS | {"eos_token_id": None})
    model.save_pretrained(folder)
    expected = answer(type(model).from_pretrained(folder), case)
    cuts = list_cuts(model)
    for number in range(0, len(cuts), every):
        cut = type(model).from_pretrained(folder, device_map=cuts[number], offload_folder=folder / "offloaded")
        torch.testing.assert_close(answer(cut, case), expected, rtol=0, atol=0, msg=str(cuts[number]))


@pytest.mark.parametrize("case", CASES, ids="-".join)
@torch.no_grad()
def test_some_cuts_of_every_class(case: tuple[str, str], tmp_path: Path) -> None:
    check_cuts(case, tmp_path, every=16)


@pytest.mark.parametrize("case", ALL)
@torch.no_grad()
def test_every_cut_of_every_class(case: tuple[str, str], tmp_path: Path) -> None:
    check_cuts(case, tmp_path, every=1)


@torch.no_grad()
def test_a_module_with_weights_and_children_is_not_cut(tmp_path: Path) -> None:
    """wav2vec2's convolutional positions: transformers cuts them into single weights, which nothing would load."""
    config = PlaitWaveformConfig(num_conv_pos_embedding_groups=2, **WAVES, **TINY)
    model, waves = PlaitModel(PlaitConfig(audio_config=config)).eval(), torch.randn(2, 64)
    model.save_pretrained(tmp_path)
    assert model._no_split_modules == {"PlaitLayer", "ConvolutionalPositions"}
    sizes = [parameter.nbytes for parameter in model.parameters()]
    for number in range(1, len(sizes)):
        memory = {"device_map": "auto", "max_memory": {"cpu": sum(sizes[:number]) + 1}}
        cut = PlaitModel.from_pretrained(tmp_path, **memory, offload_folder=tmp_path / "offloaded")
        assert torch.equal(cut(input_values=waves).last_hidden_state, model(input_values=waves).last_hidden_state)


def test_the_device_of_an_offloaded_model_is_where_it_computes(tmp_path: Path) -> None:
    model = zoo.build("PlaitForConditionalGeneration", "captioner")
    model.save_pretrained(tmp_path)
    cut = PlaitForConditionalGeneration.from_pretrained(
        tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "offloaded"
    )
    assert cut.device == torch.device("cpu") and next(cut.parameters()).is_meta
    with torch.device("meta"):
        assert type(model)(model.config).device.type == "meta"


def check_quantized(model: Any, case: tuple[str, str]) -> None:
    """The loss of training is that of evaluation, and cached generation what the modules compute without a cache."""
    inputs = zoo.inputs_of(case[1], batch=2)
    given = {**inputs, **zoo.labels_of(case[0], inputs)}
    given |= {"return_loss": True} if case[0] == "PlaitForRetrieval" else {}
    given |= {"objectives": ["contrastive", "masked_lm"]} if case[0] == "PlaitForPreTraining" else {}
    trained, evaluated = (model.train(training)(**given).loss.detach() for training in (True, False))
    torch.testing.assert_close(trained, evaluated, atol=1e-5, rtol=1e-5)
    if case[1] in zoo.GENERATING.get(case[0], ()):
        model.generation_config = GenerationConfig(**zoo.TOKENS | {"eos_token_id": None})
        inputs.pop("decoder_input_ids", None)
        inputs |= {"attention_mask": torch.ones_like(inputs["attention_mask"])} if "attention_mask" in inputs else {}
        options = {"max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
        with_cache, without = (
            torch.stack(model.generate(**inputs, **options, use_cache=use).logits) for use in (True, False)
        )
        torch.testing.assert_close(with_cache, without, atol=0.05, rtol=0.05)  # activations are rounded by batch


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_dynamic_int8_of_every_class(case: tuple[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(zoo.build(*case), {nn.Linear}, dtype=torch.qint8)
    assert any(type(module).__module__.startswith("torch.ao") for module in model.modules())
    check_quantized(model, case)


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao_int8_of_every_class(case: tuple[str, str], kind: str) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = zoo.build(*case)
    quantization.quantize_(model, getattr(quantization, kind)())
    check_quantized(model, case)
