"""A weight is read past its module only where a call of the module would compute the same: in every class, whatever
stands on any leaf module is computed, trained and generated with."""

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import peft
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from transformers import GenerationConfig

from plait import PlaitConfig, PlaitModel
from plait.configuration import (
    PlaitAudioConfig,
    PlaitCNNConfig,
    PlaitRNNConfig,
    PlaitSpectrogramConfig,
    PlaitTubeletConfig,
    PlaitVideoConfig,
    PlaitWaveformConfig,
)

from .. import zoo

# of these, leaves of one name are altered together; every class and shape, leaf by leaf, is slow
SHAPES = {
    "PlaitForMaskedLM": "text",
    "PlaitForCausalLM": "inline",
    "PlaitForConditionalGeneration": "captioner",
    "PlaitForRetrieval": "apart",
}
CASES = [pytest.param((*case, False), id="-".join(case)) for case in SHAPES.items()]
CASES += [pytest.param((*case, True), id="-".join((*case, "alone")), marks=pytest.mark.slow) for case in zoo.CASES]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGE = {"image_size": 16, "patch_size": 8, **SIZES}
WAVES = {"conv_dim": [8, 8], "conv_kernel": [4, 3], "conv_stride": [2, 2], "num_conv_pos_embeddings": 4}
TOWERS: dict[str, tuple[str, Any, dict[str, tuple[int, ...]]]] = {
    "conv_stem": ("vision_config", {**IMAGE, "stem": "conv"}, {"pixel_values": (2, 3, 24, 16)}),
    "cnn": (
        "vision_config",
        PlaitCNNConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
        {"pixel_values": (2, 3, 32, 32)},
    ),
    "mel": (
        "audio_config",
        PlaitAudioConfig(num_mel_bins=4, max_source_positions=8, **SIZES),
        {"input_features": (2, 4, 16)},
    ),
    "spectrogram": (
        "audio_config",
        PlaitSpectrogramConfig(
            num_mel_bins=16, max_length=32, patch_size=8, frequency_stride=8, time_stride=8, **SIZES
        ),
        {"input_values": (2, 48, 16)},
    ),
    "waveform": (
        "audio_config",
        PlaitWaveformConfig(num_conv_pos_embedding_groups=2, **WAVES, **SIZES),
        {"input_values": (2, 64)},
    ),
    "frames": (
        "video_config",
        PlaitVideoConfig(image_config=dict(IMAGE), temporal="transformer", num_frames=3, **SIZES),
        {"pixel_values_videos": (2, 3, 3, 16, 16)},
    ),
    "tubelets": (
        "video_config",
        PlaitTubeletConfig(num_frames=2, tubelet_size=2, **IMAGE),
        {"pixel_values_videos": (2, 2, 3, 16, 16)},
    ),
    "recurrent": ("audio_config", PlaitRNNConfig(num_mel_bins=4, rnn_size=8), {"input_features": (2, 4, 6)}),
}
QUICK_TOWERS = ("spectrogram", "waveform")
# they compute nothing that a batch with every modality, or a loss, depends on
UNREAD = re.compile(r"missing|modality_dropout|mask_token|pooler\.(norm|dense|act)$")
GENERATE = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def build(case: tuple[str, str, bool]) -> Any:
    """A model without dropout, in double precision."""
    model = zoo.build(*case[:2]).double()
    if model.can_generate():
        model.generation_config = GenerationConfig(**zoo.TOKENS | {"eos_token_id": None})
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def build_tower(name: str) -> tuple[PlaitModel, dict[str, Tensor]]:
    field, config, shapes = TOWERS[name]
    torch.manual_seed(0)
    model = PlaitModel(PlaitConfig(**{field: config}, initializer_range=0.2)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model, {key: torch.randn(*shape) for key, shape in shapes.items()}


def arguments_of(case: tuple[str, str, bool]) -> dict[str, Any]:
    inputs = zoo.inputs_of(case[1], batch=2)  # of two rows, matching has no choice of negatives
    given = {**inputs, **zoo.labels_of(case[0], inputs)}
    if case[0] == "PlaitModel" and "attention_mask" in given:  # it returns padded tokens too, which are not computed
        given["attention_mask"] = torch.ones_like(given["attention_mask"])
    if case[0] == "PlaitForRetrieval":
        given["return_loss"] = True
    if case[0] == "PlaitForPreTraining" and "pixel_values" in given:
        given["bool_masked_pos"] = torch.tensor([[True, False, True, False]] * 2)
    return given


def compute_loss(model: nn.Module, given: dict[str, Any], training: bool) -> Tensor:
    outputs = model.train(training)(**given)
    loss = getattr(outputs, "loss", None)
    return outputs.last_hidden_state.square().mean() if loss is None else loss


def list_leaves(model: nn.Module, alone: bool = True) -> dict[str, list[str]]:
    """The names of the modules without children: each alone but of the last of several equal layers only, or those
    whose last names are equal together."""
    leaves: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if any(True for _ in module.children()) or isinstance(module, nn.ModuleList | nn.ModuleDict):
            continue
        if alone:
            leaves[re.sub(r"\blayers\.\d+\b", "layers", name)] = [name]
        elif not UNREAD.search(name):
            leaves.setdefault(name.rpartition(".")[2], []).append(name)
    return leaves


def disturb(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A forward hook that changes every number by one that depends on it alone, whatever the shape."""
    if isinstance(output, tuple):
        parts = [disturb(module, inputs, part) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return output
    return output + 0.3 * torch.sin(7 * output + 1)


def generated_logits(model: Any, shape: str, use_cache: bool) -> Tensor:
    """With a cache by the decode step, as far as it may; without one by the modules."""
    inputs = {name: value for name, value in zoo.inputs_of(shape, batch=2).items() if name != "decoder_input_ids"}
    if "attention_mask" in inputs:  # no padding: it stands on the right
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    return torch.stack(model.eval().generate(**inputs, **GENERATE, use_cache=use_cache).logits)


def check_generation(model: Any, case: tuple[str, str, bool], name: str) -> None:
    if case[1] in zoo.GENERATING.get(case[0], ()):
        with_cache, without = (generated_logits(model, case[1], use_cache) for use_cache in (True, False))
        torch.testing.assert_close(with_cache, without, atol=1e-5, rtol=1e-5, msg=name)


def check_losses(model: nn.Module, given: dict[str, Any], label: str) -> Tensor:
    """The loss of training, with its gradients, which is the loss of evaluation."""
    trained, evaluated = (compute_loss(model, given, training) for training in (True, False))
    torch.testing.assert_close(trained, evaluated, atol=1e-5, rtol=1e-5, check_dtype=False, msg=label)
    return trained


class Scaled(nn.Module):
    """A parametrization with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor


@pytest.mark.parametrize("case", CASES)
def test_a_hook_may_change_what_any_leaf_gives(case: tuple[str, str, bool]) -> None:
    model, given = build(case), arguments_of(case)
    plain = check_losses(model, given, "plain")
    for label, names in list_leaves(model, case[2]).items():
        handles = [model.get_submodule(name).register_forward_hook(disturb) for name in names]
        loss = check_losses(model, given, label)
        check_generation(model, case, label)
        for handle in handles:
            handle.remove()
        # one leaf alone, before a saturated softmax, may change a loss by less than float32 holds
        assert UNREAD.search(label) or (case[2] and "self_attn" in label) or loss != plain, label


def check_adapters(model: nn.Module, names: Sequence[str], compute: Callable[[nn.Module], Tensor]) -> Any:
    """Puts adapters on the modules of these names that PEFT knows, and checks that all are trained by the loss that
    `compute` gives, and change it; returns the adapted copy, None without such modules."""
    known = nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d
    if not all(isinstance(model.get_submodule(name), known) and not UNREAD.search(name) for name in names):
        return None
    config = peft.LoraConfig(r=2, target_modules="|".join(map(re.escape, names)), init_lora_weights=False)
    adapted = peft.inject_adapter_in_model(config, copy.deepcopy(model))
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        nn.init.normal_(parameter)
    loss = compute(adapted)
    loss.backward()
    alone = len(names) == 1 and "self_attn" in names[0]  # it may change a loss by less than float32 holds, as above
    assert alone or loss != compute(model), names
    untrained = [name for name, parameter in trained.items() if parameter.grad is None]
    assert trained and not untrained, untrained
    return adapted


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_on_any_leaf_is_trained(case: tuple[str, str, bool]) -> None:
    model, given = build(case), arguments_of(case)
    for label, names in list_leaves(model, case[2]).items():
        adapted = check_adapters(model, names, partial(check_losses, given=given, label=label))
        if adapted is not None:
            check_generation(adapted, case, label)


def check_parametrizations(model: nn.Module, names: Sequence[str], compute: Callable[[], Tensor]) -> None:
    """Scales every weight of the modules of these names by a factor of its own, and checks that all are trained."""
    leaves = [model.get_submodule(name) for name in names if not UNREAD.search(name)]
    altered = [(leaf, key) for leaf in leaves for key, weight in leaf._parameters.items() if weight is not None]
    factors = [Scaled() for _ in altered]
    for (leaf, key), factor in zip(altered, factors, strict=True):
        register_parametrization(leaf, key, factor)
    if factors:
        compute().backward()
    for (leaf, key), factor in zip(altered, factors, strict=True):
        assert factor.factor.grad is not None, (names, key)
        remove_parametrizations(leaf, key, leave_parametrized=False)


@pytest.mark.parametrize("case", CASES)
def test_a_parametrization_of_any_weight_is_trained(case: tuple[str, str, bool]) -> None:
    model, given = build(case), arguments_of(case)
    for label, names in list_leaves(model, case[2]).items():
        check_parametrizations(model, names, partial(check_losses, model, given, label))


def check_offloading(model: nn.Module, groups: Iterable[Sequence[str]], compute: Callable[[], Tensor]) -> None:
    """Offloads the modules of each group of names, and checks that nothing changes."""
    expected = compute()
    for names in groups:
        leaves = [leaf for name in names if [*(leaf := model.get_submodule(name)).state_dict()]]
        for leaf in leaves:
            weights = {name: value.clone() for name, value in leaf.state_dict().items()}
            add_hook_to_module(leaf, AlignDevicesHook(execution_device="cpu", offload=True, weights_map=weights))
        assert all(weight.is_meta for leaf in leaves for weight in leaf.parameters())
        torch.testing.assert_close(compute(), expected, rtol=0, atol=0)
        for leaf in leaves:
            remove_hook_from_module(leaf)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_any_leaf_may_be_offloaded(case: tuple[str, str, bool]) -> None:
    model, given = build(case), arguments_of(case)
    groups = [*list_leaves(model, case[2]).values()]
    everything = [name for names in groups for name in names]
    check_offloading(model, [*groups, everything], lambda: compute_loss(model, given, training=False))
    if case[1] in zoo.GENERATING.get(case[0], ()):
        check_offloading(model, groups, lambda: generated_logits(model, case[1], use_cache=True))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK_TOWERS else pytest.mark.slow) for name in TOWERS]
)
def test_every_leaf_of_every_tower(name: str) -> None:
    """Hooks, parametrizations, adapters and offloading, as above, in the towers that the shapes do not have."""
    model, inputs = build_tower(name)

    def compute(module: nn.Module = model) -> Tensor:
        return module(**inputs).last_hidden_state.square().mean()

    plain, leaves = compute().detach(), list_leaves(model)
    everything = [name for names in leaves.values() for name in names]
    with torch.no_grad():
        check_offloading(model, [*leaves.values(), everything], compute)
    for label, names in leaves.items():
        leaf = model.get_submodule(names[0])
        handle = leaf.register_forward_hook(disturb)
        assert UNREAD.search(label) or compute() != plain, label
        handle.remove()
        check_adapters(model, names, compute)
        if not isinstance(leaf, nn.RNNBase):  # its kernels read a flat copy of the weights
            check_parametrizations(model, names, compute)
