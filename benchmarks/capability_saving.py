"""The checks of `capabilities.py` that save, load, share, export and shrink a model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from capability_cases import Case, answer, check_equal
from capability_child import hash_answers
from capability_outcomes import ROOT
from safetensors.torch import save_file

import plait
from plait.configuration.cards.snippets import write_snippet
from plait.configuration.remote_code import export_code
from plait.configuration.remote_code.auto_classes import list_auto_classes
from plait.modeling.adaptation.quantization import list_quantizable_layers
from plait.training.exporting import export_model
from plait.training.exporting.checking import TOLERANCE

CHILD = Path(__file__).with_name("capability_child.py")
CALLS = {"text": "text", "prompt": "text", "image": "images", "audio": "audio", "video": "videos"}


def check_saved(case: Case) -> None:
    """Saved and loaded: the same weights and outputs, to the bit; in several files too."""
    model, expected = case.build(), answer(case.build(), case.inputs)
    check_equal(answer(case.load(), case.inputs), expected)
    model.save_pretrained(case.folder / "shards", max_shard_size="20KB")
    again = type(model).from_pretrained(case.folder / "shards")
    check_equal(again.state_dict(), model.state_dict())
    check_equal(answer(again, case.inputs), expected)


def make_call(case: Case) -> dict[str, Any]:
    """Returns the arguments of a processor's call for one row."""
    row = case.rows["validation"][0]
    call: dict[str, Any] = {CALLS[name]: [value] for name, value in row.items() if name in CALLS}
    if case.config.inline:
        call["text"] = [f"{case.processor.image_token} {call['text'][0]}"]
    return call


def describe_loading(case: Case, folder: Path) -> dict[str, Any]:
    """Returns what the program in another process is told of a case."""
    inputs = case.folder / "inputs.safetensors"
    save_file({name: value.contiguous() for name, value in case.inputs.items() if torch.is_tensor(value)}, inputs)
    auto = list_auto_classes(case.shape.kind.__name__)[0]
    return {"folder": str(folder), "auto": auto, "inputs": str(inputs), "row": make_call(case)}


@cache
def ask_process(mode: str, cases: tuple[Case, ...]) -> Mapping[str, Any]:
    """Loads the folders of all cases in one further process, which does not import plait."""
    folder, told = cases[0].folder.parent, {}
    for case in cases:
        copied = case.saved if mode == "unimported" else export_code(case.saved, case.folder / "with-code").folder
        told[case.name] = describe_loading(case, copied)
    path = folder / f"{mode}.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    environment = os.environ | {"HF_MODULES_CACHE": str(folder / f"modules-{mode}"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(ROOT.parent) if mode == "unimported" else ""
    command = [sys.executable, str(CHILD), mode, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the process without plait ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def check_process(case: Case, mode: str, module: str) -> None:
    """Loaded in that process: by this module's class, with the same SHA-256 of the answers of model and processor."""
    found = ask_process(mode, case.together)[case.name]
    assert "error" not in found, found["error"]
    assert found["module"] == module, f"loaded by {found['module']}"
    told = describe_loading(case, case.saved)
    assert found["hash"] == hash_answers(case.load(), case.processor, told), "other answers in another process"


def check_auto_map(case: Case) -> None:
    """The folder loads with trust_remote_code where plait is installed and not imported."""
    check_process(case, "unimported", "plait")


def check_with_code(case: Case) -> None:
    """The folder with its code loads where plait cannot be imported."""
    check_process(case, "absent", "transformers_modules")


def check_snippet(case: Case) -> None:
    """The lines of the card load the folder and come to a prediction."""
    lines = write_snippet(case.shape.kind.__name__, case.config, case.saved.name)
    printed = StringIO()
    with chdir(case.folder), redirect_stdout(printed):
        exec(compile(lines, "snippet", "exec"), {})
    assert printed.getvalue().strip() or "batch_decode" in lines or "processor.decode" in lines, "nothing is printed"


def check_quantized(case: Case) -> None:
    """Weights of 8 bits change the answers a little, are saved and loaded equal."""
    model, plain = case.load(), answer(case.load(), case.inputs)
    layers = list_quantizable_layers(model)
    assert plait.quantize(model, dict.fromkeys(layers, "int8")) == {part: len(names) for part, names in layers.items()}
    expected = answer(model, case.inputs)
    assert any(not torch.equal(value, plain[name]) for name, value in expected.items()), "nothing was quantized"
    check_equal(expected, plain, tolerance=0.3)
    model.save_pretrained(case.folder / "int8")
    check_equal(answer(type(model).from_pretrained(case.folder / "int8"), case.inputs), expected)


def check_exported(case: Case, to: str) -> None:
    """Exported; the command itself compares each graph with the model on three other sizes."""
    folder = case.folder / f"exported-{to}"
    shutil.rmtree(folder, ignore_errors=True)
    found = export_model(case.load(), case.processor, folder, to=to)
    assert found.differences and max(found.differences.values()) <= TOLERANCE
    assert all((folder / name).is_file() for name in found.differences)


def check_onnx(case: Case) -> None:
    """`plait export --to onnx`."""
    check_exported(case, "onnx")


def check_torch_export(case: Case) -> None:
    """`plait export --to torch`."""
    check_exported(case, "torch")
