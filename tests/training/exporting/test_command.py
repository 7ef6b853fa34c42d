"""`plait export`: what it writes, refuses and prints; `predict.py` answers as the model, without plait and torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, ViTImageProcessor

from plait import PlaitForConditionalGeneration, PlaitProcessor
from plait.training.cli import main
from plait.training.exporting import run as running
from plait.training.exporting.checking import check_graph
from plait.training.exporting.encoders import build_classification_graphs
from plait.training.exporting.formats import load_onnx, load_torch, write_onnx, write_torch
from plait.training.exporting.graphs import Graph, GraphFunction
from plait.training.exporting.samples import CHECKED
from plait.training.recipes.errors import RecipeError, RunError

from ...modeling.zoo import build

pytest.importorskip("onnxruntime")
# neither can be imported in the script's process
ALONE = "import sys, runpy; sys.modules['torch'] = sys.modules['plait'] = None; sys.argv = sys.argv[1:]; "
ALONE += "runpy.run_path(sys.argv[0], run_name='__main__')"


def make_processor(**parts: Any) -> PlaitProcessor:
    words = ["[PAD]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(37))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **names)
    image_processor = ViTImageProcessor(size={"height": 16, "width": 16})
    return PlaitProcessor(tokenizer=fast, image_processor=image_processor, **parts)


def predict(folder: Path, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", ALONE, str(folder / "predict.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def save_image(folder: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 18, 3), dtype=np.uint8)).save(folder / "image.png")
    return str(folder / "image.png")


@pytest.mark.slow
def test_the_script_answers_as_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows without a text, or without an image, included."""
    model, processor, image = build("PlaitForClassification", "early"), make_processor(), save_image(tmp_path)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--output", str(tmp_path / "out")]) == 0
    assert "differs from the model by at most" in capsys.readouterr().out
    rows: list[tuple[tuple[str, ...], Any]] = [
        (("--text", "w1 w2 w3", "--image", image), {"text": ["w1 w2 w3"], "images": [image]}),
        (("--text", "w1 w2 w3"), {"text": ["w1 w2 w3"]}),
        (("--image", f"{image},{image}"), {"images": [[image, image]]}),
    ]
    for given, row in rows:
        with torch.no_grad():
            scores = model(**processor(**row, return_tensors="pt")).logits.softmax(-1)[0]
        best = int(scores.argmax())
        assert predict(tmp_path / "out", *given) == [f"{model.config.id2label[best]} {scores[best]:.4f}"]


@pytest.mark.slow
def test_the_script_generates_as_the_model(tmp_path: Path) -> None:
    model, processor, image = (
        build("PlaitForConditionalGeneration", "captioner"),
        make_processor(),
        save_image(tmp_path),
    )
    model.generation_config.max_new_tokens = 8
    running.export_model(model, processor, tmp_path / "out")
    inputs = processor(images=[image], return_tensors="pt")
    assert isinstance(model, PlaitForConditionalGeneration)
    expected = processor.batch_decode(model.generate(**inputs, do_sample=False), skip_special_tokens=True)
    assert predict(tmp_path / "out", "--image", image) == expected
    assert expected[0].strip()


class Shifted(GraphFunction):
    """A graph whose file is not what the model computes."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = super().forward(*tensors)
        return tuple(value + 0.001 * torch.compiler.is_exporting() for value in found)


def test_a_graph_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written then: neither the folder nor what was begun beside it."""

    def build_shifted(model: Any) -> list[Graph]:
        (graph,) = build_classification_graphs(model)
        own = graph.function
        return [graph._replace(function=Shifted(own.model, own.names, own.compute))]

    monkeypatch.setattr(running, "build_graphs", build_shifted)
    with pytest.raises(RunError, match=r"model: the exported graph differs from the model by 1.0e-03 .* nothing was"):
        running.export_model(build("PlaitForClassification", "image"), None, tmp_path / "out", to="torch")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match="exists and is not empty"):
        running.export_model(build("PlaitForClassification", "image"), None, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_format_that_is_not_installed_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RecipeError, match=r"needs openvino: pip install 'plait\[openvino\]'"):
        running.export_model(build("PlaitForClassification", "image"), None, tmp_path / "out", to="openvino")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_model_computes_the_same_after_its_export(kind: str, tmp_path: Path) -> None:
    """Packing is off only while a graph is recorded; and a file serves one row too."""
    model = build("PlaitForClassification", "early")
    (graph,) = build_classification_graphs(model)
    inputs = graph.make_inputs(CHECKED[1], seed=1)
    before = graph.function(*inputs.values())[0]
    path = tmp_path / ("model.onnx" if kind == "onnx" else "model.pt2")
    write, load = (write_onnx, load_onnx) if kind == "onnx" else (write_torch, load_torch)
    write(graph, graph.trace(), path)
    assert torch.equal(graph.function(*inputs.values())[0], before)
    assert check_graph(graph, load(graph, path)) < 1e-5
