"""plait's own code beside a saved model: flat files, generated from the package, that answer as plait does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_imports, get_relative_imports

import plait
from plait.configuration.checksums import find_changed_files
from plait.configuration.remote_code.collecting import LEFT_OUT_MODULES, TABLES, collect_modules
from plait.configuration.remote_code.entry import FILE_NAME, FLAT_LAYERS, FLAT_MODULES
from plait.configuration.remote_code.export import export_code
from plait.configuration.remote_code.flattening import MARK, NameClashError, flatten
from plait.configuration.remote_code.source_tree import ROOT, find_definition, read_module

from ...compatibility.answers import ask, process
from ...compatibility.comparing import read_json
from ...compatibility.tiny_models import build, list_tiny_models
from ...compatibility.tiny_processors import list_processors

CLASSES = sorted(name for name in plait.__all__ if name.startswith("PlaitFor") or name == "PlaitModel")
LIBRARIES = {
    "PIL",
    "filelock",
    "huggingface_hub",
    "numpy",
    "safetensors",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
}
FILES = {layer: f"{module}.py" for layer, module in FLAT_MODULES.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flat files of all classes at once, with all towers and strategies."""
    folder = tmp_path_factory.mktemp("whole")
    roots = {find_definition("", name)[0] for name in (*CLASSES, "PlaitProcessor")}
    for name, text in flatten(collect_modules(roots, {})).items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with its processor, saved with their code."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    build(list_tiny_models()["classification_text_image"]).save_pretrained(folder, with_code=True)
    list_processors()["classification_text_image"][0].save_pretrained(folder, with_code=True)
    return folder


def test_the_flat_files_are_what_transformers_asks_of_code_beside_a_model(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == set(FILES.values())
    for number, name in enumerate(FILES.values()):
        above = {FLAT_MODULES[layer] for layer in FLAT_LAYERS[:number]}
        assert set(get_relative_imports(whole / name)) <= above
        assert {library for library in get_imports(whole / name) if library not in sys.stdlib_module_names} <= LIBRARIES
    assert get_relative_imports(whole / FILES["modeling"]) == [FLAT_MODULES["configuration"]]


def test_every_name_in_the_flat_files_is_defined(whole: Path) -> None:
    checks = ["--isolated", "--select", "F821,F811,E9", "--target-version", "py311"]
    command = [sys.executable, "-m", "ruff", "check", *checks, str(whole)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_what_is_left_out_and_the_tables_are_there() -> None:
    for name in (*LEFT_OUT_MODULES, *TABLES):
        assert read_module(name).tree.body
    assert {module for module in TABLES if TABLES[module] in read_module(module).list_definitions()} == set(TABLES)


def test_two_meanings_of_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in {"a": "LIMIT = 1\n", "b": "from .a import LIMIT as FIRST\nLIMIT = 2\n"}.items():
        (tmp_path / "configuration").mkdir(exist_ok=True)
        (tmp_path / "configuration" / f"{name}.py").write_text(text)
    stand_in = Path("configuration", "remote_code", "left_out.py")
    (tmp_path / stand_in).parent.mkdir()
    (tmp_path / stand_in).write_text((ROOT / stand_in).read_text())
    monkeypatch.setattr("plait.configuration.remote_code.source_tree.ROOT", tmp_path)
    with pytest.raises(NameClashError, match=r"'LIMIT' is configuration\.b LIMIT"):
        flatten(collect_modules(["configuration.b"], {}))


def load(name: str, folder: Path) -> Any:
    """A class of the code beside a model, here beside the installed plait."""
    layer = "processing" if name == "PlaitProcessor" else "modeling"
    found = get_class_from_dynamic_module(f"{FLAT_MODULES[layer]}.{name}", str(folder))
    assert found.__module__.startswith("transformers_modules.")
    return found


def test_the_code_beside_a_model_answers_as_plait_does(exported: Path, tmp_path: Path) -> None:
    rows = list_processors()["classification_text_image"][1]
    inputs = process(plait.PlaitProcessor.from_pretrained(exported), rows)
    again = process(load("PlaitProcessor", exported).from_pretrained(exported), rows)
    assert inputs.keys() == again.keys() and all(torch.equal(inputs[name], again[name]) for name in inputs)
    expected = ask(plait.PlaitForClassification.from_pretrained(exported), inputs)
    for name in ("PlaitForClassification", "PlaitModel"):
        model = load(name, exported).from_pretrained(exported)
        given = ask(getattr(plait, name).from_pretrained(exported), inputs)
        answers = ask(model, inputs)
        assert answers.keys() == given.keys() and all(torch.equal(answers[key], given[key]) for key in given)
    assert expected["logits"].shape == (2, 3)
    with pytest.raises(ImportError, match="pip install plait"):
        load("PlaitModel", exported).compose(text="any")
    load("PlaitForClassification", exported).from_pretrained(exported).save_pretrained(tmp_path)
    load("PlaitProcessor", exported).from_pretrained(exported).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == set(FILES.values())
    assert read_json(tmp_path / "config.json")["auto_map"] == read_json(exported / "config.json")["auto_map"]


def test_the_folder_names_its_code_and_holds_what_it_uses(exported: Path) -> None:
    config = read_json(exported / "config.json")
    assert set(config["auto_map"].values()) == {
        f"modeling_plait.{name}" for name in ("PlaitConfig", "PlaitModel", "PlaitForClassification")
    }
    assert read_json(exported / "processor_config.json")["auto_map"] == {
        "AutoProcessor": "processing_plait.PlaitProcessor"
    }
    text = (exported / FILES["modeling"]).read_text()
    assert "class CoAttentionFusion" in text and "class TextTower" in text and "class ImageTower" in text
    assert "BottleneckFusion" not in text and "ConvolutionalTower" not in text and "class PlaitForRetrieval" not in text
    assert not (exported / FILE_NAME).exists()
    assert find_changed_files(exported) == []
    assert plait.PlaitConfig.from_pretrained(exported).auto_map == {}


def test_an_export_replaces_an_earlier_one_and_nothing_else(exported: Path, tmp_path: Path) -> None:
    first = export_code(exported, tmp_path / "out")
    assert first.files == {name: (tmp_path / "out" / name).stat().st_size for name in FILES.values()}
    (tmp_path / "out" / FILES["processing"]).write_text(f"{MARK}older")
    (tmp_path / "out" / "left.py").write_text("")
    assert export_code(exported, tmp_path / "out") == first
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in exported.iterdir()}
    with pytest.raises(FileExistsError, match="name a new folder"):
        export_code(exported, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("config.json", {"model_type": "bert"}, ValueError, "plait did not save it"),
        (
            "config.json",
            {"model_type": "plait", "architectures": ["MyModel"]},
            ValueError,
            "MyModel, which is no class",
        ),
        ("notes.json", {}, FileNotFoundError, "neither a config.json"),
    ],
)
def test_other_folders_are_an_error(
    name: str, content: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(error, match=message):
        export_code(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_of_somebody_else_stays(exported: Path, tmp_path: Path) -> None:
    folder = export_code(exported, tmp_path / "out").folder
    (folder / FILES["modeling"]).write_text("# mine")
    with pytest.raises(FileExistsError, match="modeling_plait.py that plait did not write"):
        export_code(folder)
    assert (folder / FILES["modeling"]).read_text() == "# mine"
