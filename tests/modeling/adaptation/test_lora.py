"""`lora_config`: adapters of every class by one call, which come back by peft's own loading."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from plait import lora_config

from .. import zoo

peft = pytest.importorskip("peft")
QUICK = (("PlaitForClassification", "early"), ("PlaitForConditionalGeneration", "captioner"))
CASES = [pytest.param(case, id="-".join(case), marks=[] if case in QUICK else pytest.mark.slow) for case in zoo.CASES]


def save_and_load(case: tuple[str, str], folder: Path) -> Any:
    """A model with pretrained parts: those of a folder."""
    zoo.build(*case).save_pretrained(folder)
    return zoo.CLASSES[case[0]].from_pretrained(folder)


def shake(adapted: Any, seed: int, adapter: str = "default") -> None:
    """Gives what is trained other values than zero."""
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and f".{adapter}" in name:
            torch.nn.init.normal_(parameter, std=0.2)


@torch.no_grad()
def run(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return zoo.main_tensor(model.eval()(**inputs)).clone()


@pytest.mark.parametrize("case", CASES)
def test_adapters_of_every_class_are_hot_swapped_and_come_back(case: tuple[str, str], tmp_path: Path) -> None:
    """Two adapters beside one base, with all that is trained whole: each answers as itself, without them the base does,
    and AutoPeftModel finds the class; nothing warns."""
    model, inputs = save_and_load(case, tmp_path / "base"), zoo.inputs_of(case[1])
    base = run(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        adapted = peft.get_peft_model(model, lora_config(model, r=2, parts=None))
    second = lora_config(adapted.get_base_model(), r=3, target_modules=["q_proj", "up_proj"])
    adapted.add_adapter("second", second)
    found = {}
    for seed, name in enumerate(("default", "second")):
        adapted.set_adapter(name)
        shake(adapted, seed, name)
        found[name] = run(adapted, inputs)
        adapted.save_pretrained(tmp_path / "saved", selected_adapters=[name])
    assert all((value - base).abs().max() > 1e-4 for value in found.values())
    assert (found["default"] - found["second"]).abs().max() > 1e-4
    with adapted.disable_adapter():
        torch.testing.assert_close(run(adapted, inputs), base, rtol=0, atol=0)
    adapted.set_adapter("default")
    assert torch.equal(run(adapted, inputs), found["default"])
    loaded = peft.AutoPeftModel.from_pretrained(tmp_path / "saved")
    assert type(loaded.get_base_model()) is type(model)
    assert torch.equal(run(loaded, inputs), found["default"])
    loaded.load_adapter(tmp_path / "saved" / "second", "other")
    loaded.set_adapter("other")
    assert torch.equal(run(loaded, inputs), found["second"])
    torch.testing.assert_close(run(loaded.merge_and_unload(), inputs), found["second"], rtol=1e-5, atol=1e-5)
