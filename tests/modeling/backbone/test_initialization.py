"""New models begin as their modules say, and loaded ones as their files say."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from plait import PlaitForImageGeneration, PlaitModel
from plait.configuration import PlaitTextConfig, PlaitWaveformConfig
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.modeling.core.adaptive import AdaptiveModulation
from plait.modeling.core.layers import SelfInitializing
from plait.modeling.diffusion.denoiser import PlaitDenoiser, build_grid_sinusoids
from plait.modeling.towers.waveform import WaveConvolution

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def compose(kind: str) -> PlaitPreTrainedModel:
    torch.manual_seed(0)
    if kind == "waveform":
        convolutions = {"conv_dim": [8, 16], "conv_kernel": [3, 3], "conv_stride": [2, 2]}
        return PlaitModel.compose(audio=PlaitWaveformConfig(**SIZES, **convolutions), verbose=False)
    text = PlaitTextConfig(vocab_size=20, **SIZES)
    return PlaitForImageGeneration.compose(text=text, image_size=8, patch_size=4, **SIZES, verbose=False)


def record(init_weights: Callable[..., None], called: set[nn.Module]) -> Callable[..., None]:
    def recorded(module: nn.Module, std: float) -> None:
        called.add(module)
        init_weights(module, std)

    return recorded


@pytest.mark.parametrize("kind", ["waveform", "denoiser"])
def test_every_module_that_initializes_itself_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose parameters are all those of its children, which transformers leaves out."""
    called: set[nn.Module] = set()
    for owner in (PlaitDenoiser, AdaptiveModulation, WaveConvolution):
        monkeypatch.setattr(owner, "init_weights", record(owner.init_weights, called))
    model = compose(kind)
    expected = {
        each for each in model.modules() if isinstance(each, PlaitDenoiser | AdaptiveModulation | WaveConvolution)
    }
    assert expected and expected <= called
    assert all(isinstance(each, SelfInitializing) for each in called)


def test_a_new_denoiser_begins_at_zero_with_its_gates_open() -> None:
    model = compose("denoiser")
    denoiser = model.get_submodule("denoiser")
    assert isinstance(denoiser, PlaitDenoiser) and not denoiser.output_proj.weight.any()
    assert torch.equal(denoiser.position_embedding.weight, build_grid_sinusoids(2, 2, 16))
    for modulation in (each for each in denoiser.modules() if isinstance(each, AdaptiveModulation)):
        condition = torch.randn(1, 16)
        gates = [each.gate for each in modulation(condition) if each.gate is not None]
        assert len(gates) == modulation.sublayers
        assert all(torch.equal(gate, torch.ones(1, 1, 16)) for gate in gates)
        assert not any(each.scale.any() or each.shift.any() for each in modulation(condition))


@pytest.mark.parametrize("kind", ["waveform", "denoiser"])
def test_loaded_weights_stay(kind: str, tmp_path: Path) -> None:
    model = compose(kind)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    saved = model.state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in again.state_dict().items())
