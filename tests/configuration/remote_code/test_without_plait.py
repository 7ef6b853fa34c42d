"""Folders of every class, tower, fusion and processor load where plait cannot be imported, with the same numbers."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import plait
from plait.configuration.cards.snippets import write_snippet
from plait.configuration.remote_code import export_code

from ...compatibility.answers import ask, process, read_rows
from ...compatibility.comparing import read_json
from ...compatibility.tiny_models import build, list_tiny_models
from ...compatibility.tiny_processors import make_tokenizer
from .without_plait import hash_tensors

FOLDERS = Path(__file__).parents[2] / "compatibility" / "folders"
PROGRAM = Path(__file__).with_name("without_plait.py")


def run_without_plait(cases: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(PROGRAM), str(folder / "cases.json")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def answer(case: dict[str, Any]) -> dict[str, Any]:
    """What plait answers for a case."""
    folder, found = case["folder"], {}
    torch.set_num_threads(1)
    if case.get("class_name"):
        model = getattr(plait, case["class_name"]).from_pretrained(folder)
        found["model"] = hash_tensors(ask(model, load_file(case["inputs"])))
    if case.get("rows"):
        found["processor"] = hash_tensors(
            process(plait.PlaitProcessor.from_pretrained(folder), read_rows(Path(case["rows"])))
        )
    return found


def list_cases(folder: Path) -> dict[str, dict[str, Any]]:
    """The kept folders, each copied with its code."""
    cases: dict[str, dict[str, Any]] = {}
    for source in sorted(FOLDERS.iterdir()):
        config = source / "config.json"
        if (
            not config.is_file()
            or read_json(config).get("model_type") != "plait"
            or (source / "modules.json").is_file()
        ):
            continue
        case: dict[str, Any] = {"folder": str(export_code(source, folder / source.name).folder)}
        name = read_json(config)["architectures"][0]
        expected = source / "expected"
        case |= {"class_name": name, "inputs": str(expected / name / "inputs.safetensors")}
        if (source / "processor_config.json").is_file() and (expected / "PlaitProcessor").is_dir():
            case["rows"] = str(expected / "PlaitProcessor")
        cases[source.name] = case
    return cases


@pytest.mark.slow
def test_every_folder_answers_alike_without_plait(tmp_path: Path) -> None:
    cases = list_cases(tmp_path)
    assert {case["class_name"] for case in cases.values()} == {
        name for name in plait.__all__ if name.startswith("PlaitFor") or name == "PlaitModel"
    }
    assert set(cases) >= set(list_tiny_models()) and sum("rows" in case for case in cases.values()) > 5
    found = run_without_plait(cases, tmp_path)
    for name, case in cases.items():
        kinds = {
            auto: kind for auto, kind in found[name].pop("classes").items() if auto not in ("AutoConfig", "AutoModel")
        }
        assert set(kinds.values()) <= {case["class_name"]}, name
    different = [name for name, case in cases.items() if found[name] != answer(case)]
    assert different == []


@pytest.mark.slow
def test_a_model_with_its_processor_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also its tokenizer, transformers' own pipeline, and the snippet of its card."""
    name, folder = "classification_text_image", tmp_path / "model"
    model = build(list_tiny_models()[name])
    tokenizer = make_tokenizer()
    processor = plait.PlaitProcessor.compose(text=tokenizer, image=model.config)
    model.save_pretrained(folder, with_code=True)
    processor.save_pretrained(folder, with_code=True)
    snippet = write_snippet("PlaitForClassification", model.config, "model", with_code=True)
    text_folder = tmp_path / "text"
    texts = plait.PlaitForClassification(
        plait.PlaitConfig(text_config=list_tiny_models()["model_text_post_norm"].config["text_config"])
    )
    texts.save_pretrained(text_folder, with_code=True)
    plait.PlaitProcessor.compose(text=tokenizer).save_pretrained(text_folder, with_code=True)
    lines = [
        "from transformers import pipeline",
        'classify = pipeline("text-classification", "text", trust_remote_code=True)',
    ]
    lines += ['print(classify("what colour is the cat"))']
    cases: dict[str, dict[str, Any]] = {
        "both": {"folder": str(folder), "snippet": snippet, "tokenizer": "what colour is the cat"},
        "text": {"folder": str(text_folder), "snippet": "\n".join(lines), "tokenizer": "where is a dog"},
    }
    found = run_without_plait(cases, tmp_path)
    assert found["both"]["tokenizer"] == tokenizer("what colour is the cat")["input_ids"]
    here = transformers.pipeline("text-classification", str(text_folder))("what colour is the cat")
    assert found["text"]["printed"].strip() == str(here)
    printed = StringIO()
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(printed):
        exec(compile(snippet, "snippet", "exec"), {})
    assert found["both"]["printed"] == printed.getvalue() != ""
