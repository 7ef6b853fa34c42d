"""Pages of models without a saved run: sounds, videos, generated images, documents, several labels, numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import gradio
import numpy as np
import pytest
import soundfile
from PIL import Image

import plait
from plait.training.recipes.schema import DataRecipe
from plait.training.runs.predict import predict_batch
from plait.training.serving import ServedModel, ServeSettings
from plait.training.serving.answer_panel import AnswerPanel
from plait.training.serving.drawing_panel import DrawingPanel
from plait.training.serving.explanation_tab import ExplanationTab
from plait.training.serving.fields import build_row, find_fields
from plait.training.serving.search_index import SearchIndex
from plait.training.tasks.registry import find_task

from ...compatibility.tiny_models import build, list_tiny_models
from ...compatibility.tiny_processors import make_tokenizer
from .conftest import IMAGE

DRAWING = {"num_images": 2, "num_inference_steps": 2, "random_seed": False}


def save_tiny(name: str, folder: Path) -> ServedModel:
    """Serves a tiny model, with the processor of its parts."""
    model: Any = build(list_tiny_models()[name])
    config, parts = model.config, {}
    parts |= {"text": make_tokenizer()} if config.text_config is not None else {}
    parts |= {"image": config} if config.vision_config is not None else {}
    parts |= {"audio": config.audio_config} if config.audio_config is not None else {}
    parts |= {"video": config, "num_frames": 4} if config.video_config is not None else {}
    parts |= {"decoder": make_tokenizer(length=24)} if config.decoder_config is not None else {}
    if name == "image_autoencoding":
        parts = {"target_image_size": 16}
    for part in (model, plait.PlaitProcessor.compose(**parts)):
        part.save_pretrained(folder)
    return ServedModel(str(folder), ServeSettings(), name=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A sound and a video, as files."""
    folder = tmp_path_factory.mktemp("media")
    soundfile.write(folder / "a.wav", np.sin(np.arange(8000) / 9).astype(np.float32) / 2, 16000)
    with av.open(str(folder / "a.mp4"), "w") as video:
        stream: Any = video.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 16
        for number in range(6):
            frame = av.VideoFrame.from_image(Image.new("RGB", (16, 16), (40 * number, 0, 0)))
            for packet in stream.encode(frame):
                video.mux(packet)
        for packet in stream.encode():
            video.mux(packet)
    return {"audio": str(folder / "a.wav"), "video": str(folder / "a.mp4"), "image": IMAGE, "text": "a red cat"}


def build_page(served: ServedModel) -> Any:
    """The panel of a page, built."""
    panel = (DrawingPanel if served.task.name == "image_generation" else AnswerPanel)(gradio, served)
    with gradio.Blocks():
        panel.build()
    return panel


@pytest.mark.parametrize("name", ["classification_audio", "classification_text_video", "generation_audio"])
def test_sounds_and_videos_are_answered(name: str, files: dict[str, str], tmp_path: Path) -> None:
    served = save_tiny(name, tmp_path)
    panel = build_page(served)
    values = {field.name: files[field.modality] for field in served.fields}
    row = served.build_row(values)
    (expected,) = predict_batch(served.model, served.collator, [row])
    assert served.predict(row) == expected
    options = {"max_new_tokens": 4, "temperature": 0, "num_beams": 1} if panel.options else {}
    assert panel.show(**values, **options) is not None
    if len(values) > 1:
        assert served.predict(served.build_row({"text": "a red cat"}))
    if name != "generation_audio":
        assert "<svg" in ExplanationTab(served).show(**values)


def test_images_are_drawn_from_their_seeds(tmp_path: Path) -> None:
    """The same seed gives the same image, alone and among others; sizes and steps have limits."""
    served = save_tiny("image_generation_text", tmp_path)
    panel = build_page(served)
    size = {"height": panel.shape.height, "width": panel.shape.width}
    guided = {"guidance_scale": 2.0} if panel.guided else {}
    given = {"text": "a red cat", **DRAWING, **size, **guided}
    pictures, seed = panel.show(**given, seed=3)
    assert seed == 3 and [text for _, text in pictures] == ["seed 3", "seed 4"]
    (again,), _ = panel.show(**{**given, "num_images": 1}, seed=4)
    assert np.array_equal(np.asarray(again[0]), np.asarray(pictures[1][0]))
    assert not np.array_equal(np.asarray(pictures[0][0]), np.asarray(pictures[1][0]))
    assert panel.answer(**given, seed=3)["images"][0].startswith("data:image/png;base64,")
    for name, value, message in (
        ("num_images", 9, "num_images is 9: expected 1 .. 8"),
        ("num_inference_steps", 0, "num_inference_steps is 0"),
        ("height", 2**20, "draw a smaller image"),
        ("seed", -1, "seed is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            panel.draw({**given, "seed": 0, name: value})


def test_an_image_comes_back_from_an_autoencoder(tmp_path: Path) -> None:
    served = save_tiny("image_autoencoding", tmp_path)
    panel = build_page(served)
    image, measure = panel.show(image=IMAGE)
    assert image.size and "dB" in measure


def test_documents_are_searched(tmp_path: Path) -> None:
    served = save_tiny("retrieval_documents", tmp_path)
    index = SearchIndex(served)
    hits = index.search({"query_text": "a red cat"}, [], ["the dog is blue", "a red cat"], 2)
    assert {hit.side for hit in hits} == {"document"} and len(hits) == 2


@pytest.mark.parametrize(
    ("labels", "kind", "seen"),
    [
        (["red", "warm", "round"], "multi_label_classification", "plait-bars"),
        (1, "regression", '<div class="plait-value">'),
    ],
)
def test_several_labels_and_numbers(
    labels: Any, kind: str, seen: str, make_model: Callable[..., Any], processor: Any, tmp_path: Path
) -> None:
    for part in (make_model(labels=labels, problem_type=kind), processor):
        part.save_pretrained(tmp_path)
    served = ServedModel(
        str(tmp_path), overrides={"data.columns": {"text": "question", "image": "image", "label": "price"}}
    )
    panel = build_page(served)
    values = {"question": "is it red ?", "image": IMAGE}
    assert seen in panel.show(**values)
    assert panel.view.name == "price"
    if kind == "regression":
        assert ExplanationTab(served).show(**values).count("of the output") == 2  # the scores, and the scale of words
        assert isinstance(served.predict(served.build_row(values))["value"], float)


def test_the_texts_of_a_table_are_fields_of_their_own(make_model: Callable[..., Any]) -> None:
    """A pair, or several joined by the template, as in training; a missing one counts as in training too."""
    task, model = find_task("classification"), make_model()
    pair = DataRecipe(columns={"text": ["question", "answer"], "label": "label"})
    fields = find_fields(task, model, pair)
    assert [(field.label, field.column) for field in fields[:2]] == [("question", "text"), ("answer", "text_pair")]
    row = build_row(fields, {"question": "a"}, pair, ServeSettings())
    assert row == {"text": "a", "text_pair": "", "image": None}
    joined = DataRecipe(columns={"text": ["title", "body"]}, templates={"text": "{title}. {body}"})
    fields = find_fields(task, model, joined)
    assert build_row(fields, {"title": "a", "body": "b"}, joined, ServeSettings())["text"] == "a. b"
    assert build_row(fields, {"image": IMAGE}, joined, ServeSettings()) == {"text": None, "image": IMAGE}
    several = DataRecipe(columns={"image": ["front view", "back"]})
    assert [field.name for field in find_fields(task, model, several)] == ["text", "front_view", "back"]
