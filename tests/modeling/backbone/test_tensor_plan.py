"""Tensor parallelism: two processes that share heads and hidden units compute what one does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.distributed import DistributedConfig

from plait import PlaitForCausalLM, PlaitForClassification
from plait.modeling.backbone.tensor_plan import build_tensor_plan

from ...training.module_runner import run_module
from ..zoo import CASES, DECODER, build, inputs_of

GROUPED = {"decoder_config": {**DECODER, "num_key_value_heads": 2, "qk_norm": True, "qkv_bias": True}}
GENERATES = ("PlaitForCausalLM", "PlaitForConditionalGeneration")
WORKER = """
import sys
from pathlib import Path

import torch
from torch import distributed
from transformers.distributed import DistributedConfig

import plait

for folder in sorted(Path(sys.argv[1]).iterdir()):
    expected = torch.load(folder / "expected.pt")
    kind = getattr(plait, expected["class"])
    model = kind.from_pretrained(folder, distributed_config=DistributedConfig(tp_size=2)).eval()
    outputs = {name: value for name, value in model(**expected["inputs"]).items() if torch.is_tensor(value)}
    assert outputs.keys() == expected["outputs"].keys()
    for name, value in expected["outputs"].items():
        torch.testing.assert_close(outputs[name], value, rtol=1e-5, atol=1e-5, msg=f"{folder.name} {name}")
    sum(value.square().sum() for value in outputs.values() if value.requires_grad).backward()
    shared, scale = 0, max(known.abs().max().item() for known in expected["gradients"].values() if known is not None)
    for name, weight in model.named_parameters():
        known, own = expected["gradients"][name], weight.grad
        if known is not None:
            shared += hasattr(own, "full_tensor")
            own = own.full_tensor() if hasattr(own, "full_tensor") else own
            torch.testing.assert_close(own, known, rtol=1e-4, atol=1e-5 * scale, msg=f"{folder.name} {name}")
    assert shared, folder.name
    with torch.no_grad():
        for name, value in model(**expected["inputs"]).items():
            if torch.is_tensor(value):
                torch.testing.assert_close(value, expected["outputs"][name], rtol=1e-5, atol=1e-5)
    if expected["generated"] is not None:
        found = model.generate(**expected["prompt"], max_new_tokens=5, do_sample=False)
        assert torch.equal(found, expected["generated"]), folder.name
    model.save_pretrained(folder / "again")
    distributed.barrier()
    for name, value in kind.from_pretrained(folder / "again").state_dict().items():
        assert torch.equal(value, expected["weights"][name]), (folder.name, name)
"""


def save_expected(folder: Path, class_name: str, shape: str, **fields: Any) -> None:
    """Saves a model with its inputs, outputs, gradients and generated tokens."""
    model: Any = build(class_name, shape, **fields)
    model.save_pretrained(folder)
    inputs: Any = {**inputs_of(shape), **({"return_loss": True} if class_name == "PlaitForRetrieval" else {})}
    outputs: dict[str, Tensor] = {name: value for name, value in model(**inputs).items() if torch.is_tensor(value)}
    total: Any = sum(value.square().sum() for value in outputs.values() if value.requires_grad)
    total.backward()
    prompt = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    generated = None
    if class_name in GENERATES:
        generated = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    expected = {
        "class": class_name,
        "inputs": inputs,
        "outputs": {name: value.detach() for name, value in outputs.items()},
        "gradients": {name: weight.grad for name, weight in model.named_parameters()},
        "weights": model.state_dict(),
        "prompt": prompt,
        "generated": generated,
    }
    torch.save(expected, folder / "expected.pt")


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    """Outputs, gradients and generated tokens of every class and shape; a saved model is the whole one."""
    for number, case in enumerate(CASES):
        save_expected(tmp_path / "models" / f"{number:02d}-{'-'.join(case)}", *case)
    save_expected(tmp_path / "models" / "grouped", "PlaitForCausalLM", "decoder", **GROUPED)
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run_module(*launcher, str(worker), str(tmp_path / "models"))


def test_the_plan_names_the_layers_of_every_part() -> None:
    plan = build_tensor_plan(build("PlaitForConditionalGeneration", "captioner"))
    layer = "model.decoder.transformer.layers.*"
    assert plan[f"{layer}.self_attn.q_proj"] == plan[f"{layer}.mlp.gate_proj"] == "colwise"
    assert plan[f"{layer}.cross_attn.o_proj"] == plan[f"{layer}.mlp.down_proj"] == "rowwise"
    assert {name.split(".")[1] for name in plan} == {"towers", "decoder"}
    whole = build("PlaitForCausalLM", "decoder", **GROUPED)
    assert build_tensor_plan(whole)["model.decoder.transformer.layers.*.self_attn.q_norm"].startswith("replicated")
    assert whole._tp_plan == build_tensor_plan(whole)


def test_heads_that_cannot_be_shared_are_named() -> None:
    config: Any = build("PlaitForCausalLM", "decoder", **GROUPED).config
    config.distributed_config = DistributedConfig(tp_size=4)
    with pytest.raises(ValueError, match="tp_size is 4, but decoder.*self_attn has num_key_value_heads 2: choose"):
        PlaitForCausalLM(config)
    config = build("PlaitForClassification", "text").config
    config.distributed_config = DistributedConfig(tp_size=3)
    with pytest.raises(ValueError, match="has num_attention_heads 4"):
        PlaitForClassification(config)
