"""The page of every task: its fields, its answers in the page and by the API, and its mistakes."""

import json
import socket
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio
import httpx
import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError

import plait
from plait.training.cli import main
from plait.training.recipes.errors import RecipeError
from plait.training.runs.predict import predict_batch
from plait.training.serving import ServedModel, ServeSettings, build_blocks, launch_blocks
from plait.training.serving.about import render_about, render_header
from plait.training.serving.answer_panel import AnswerPanel
from plait.training.serving.blocks import PANELS
from plait.training.serving.components import read_generation_options
from plait.training.serving.explanation_tab import ExplanationTab
from plait.training.serving.limits import check_file_field
from plait.training.serving.search_index import SearchIndex

from .conftest import IMAGE, RUNS, VALUES, fill_in, load_run

OPTIONS = {"max_new_tokens": 4, "temperature": 0, "num_beams": 1}
PAGES = {  # what is seen of each answer
    "classification": "'yes':",
    "causal_lm": "written by the model",
    "captioning": "",
    "masked_lm": "mask 1",
    "pretraining": "similarity",
    "question_answering": "plait-value",
    "retrieval": "similarity",
    "translation": "",
}
Launch = Callable[[ServedModel], tuple[Any, Any]]


def send(values: dict[str, Any]) -> dict[str, Any]:
    """The values with their files as the client uploads them."""
    return {name: handle_file(value) if value == IMAGE else value for name, value in values.items()}


@pytest.mark.parametrize("name", VALUES)
def test_the_api_answers_as_predict_does(name: str, launched: Launch) -> None:
    served = load_run(name)
    values = fill_in(served, VALUES[name])
    assert all(value is not None for value in values.values())
    _, client = launched(served)
    found = client.predict(**send(values), api_name="/predict")
    (expected,) = predict_batch(served.model, served.collator, [served.build_row(values)])
    assert found == expected


@pytest.mark.parametrize("name", VALUES)
def test_the_page_shows_the_answer(name: str) -> None:
    """What the button of the page returns fits the components it is shown in."""
    served = load_run(name)
    panel = PANELS.get(served.task.name, AnswerPanel)(gradio, served)
    with gradio.Blocks():
        panel.build()
    if name == "dialogue":
        chat, box = panel.reply(chat=[], message="Where does Anna live ?", **OPTIONS)
        assert [message["role"] for message in chat] == ["user", "assistant"] and chat[1]["content"] and box == ""
        return
    shown = (panel.pair if name == "retrieval" else panel).show(**fill_in(served, VALUES[name]), **OPTIONS)
    assert PAGES[name] in str(shown)


def test_a_search_finds_the_nearest(launched: Launch) -> None:
    served = load_run("retrieval")
    _, client = launched(served)
    pictures = [handle_file(str(path)) for path in sorted(Path(IMAGE).parent.glob("*.png"))]
    given = {"query_text": "a red square", "query_image": None, "pictures": pictures, "texts": "a blue square\n\ndog"}
    hits = client.predict(**given, top_k=10, api_name="/search")["hits"]
    assert [next(iter(hit)) for hit in hits].count("image") == 2 and len(hits) == 4
    for hit in hits:
        other = hit.get("text", "a red square")
        if "image" in hit:
            row = {"text": other, "image": str(Path(IMAGE).parent / hit["image"])}
            (expected,) = predict_batch(served.model, served.collator, [row])
            assert hit["score"] == pytest.approx(expected["similarity"], abs=1e-5)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert len(client.predict(**given, top_k=1, api_name="/search")["hits"]) == 1


def test_an_index_is_searched(tmp_path: Path) -> None:
    served = load_run("retrieval")
    index = SearchIndex(served)
    index.open(str(Path(IMAGE).parent), str(tmp_path / "index"))
    assert index.describe() == "2 items of images, by their image" and index.size == 2
    assert {hit.name for hit in index.search({"query_image": IMAGE}, [], [], 5)} == {"red.png", "blue.png"}
    best, _ = index.search({"query_image": IMAGE}, [], [], 5)
    assert best.name == "red.png" and best.score == pytest.approx(1, abs=1e-5)
    assert best.draw is not None and best.draw().size
    for place, message in (
        (tmp_path / "index", "has no file that the model reads"),
        (tmp_path / "no", "no such folder"),
    ):
        with pytest.raises(RecipeError, match=message):
            index.open(str(place))


@pytest.mark.parametrize("name", ["classification", "question_answering"])
def test_an_explanation_is_that_of_explain(name: str, launched: Launch) -> None:
    served = load_run(name)
    _, client = launched(served)
    values = fill_in(served, VALUES[name])
    found = client.predict(**send(values), api_name="/explain")
    row = served.build_row(values)
    (expected,) = plait.explain(served.model, served.processor, row, max_length=served.recipe.max_length)
    assert found == json.loads(json.dumps(expected.to_dict()))
    shown = ExplanationTab(served).show(**values)
    assert shown.count("<h3>") == len(row) and escape(expected.target) in shown


def test_what_is_wrong_is_said(launched: Launch, tmp_path: Path) -> None:
    """To the one who asked, in one line; an address is not opened, a file of the server not read."""
    served = load_run("classification")
    _, client = launched(served)
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    address = {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}}
    wrong = {
        "nothing is filled in: give question or file": {"question": " "},
        "images, row 0": {"file": handle_file(str(broken))},
        "addresses are not opened": {"file": address},
        "question has 100,001 characters, more than 100,000": {"question": "a" * 100_001},
    }
    for message, values in wrong.items():
        with pytest.raises(AppError, match=message):
            client.predict(**values, api_name="/predict")
    with pytest.raises(ValueError, match="no uploaded file"):
        served.build_row({"file": "/nowhere.png"})
    small = replace(served.settings, max_file_megabytes=1)
    (tmp_path / "large.png").write_bytes(bytes(2**20 + 1))
    with pytest.raises(ValueError, match="the file has 1.0 MB, more than 1 MB: give a smaller one"):
        check_file_field("file", str(tmp_path / "large.png"), small)


def test_chats_and_settings_out_of_range_are_refused() -> None:
    served = load_run("dialogue")
    for messages in ("hello", [], [{"role": "user"}]):
        with pytest.raises(ValueError, match="messages"):
            served.build_row({"messages": messages})
    for name, value in (("max_new_tokens", 513), ("num_beams", 9), ("temperature", 3)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            read_generation_options(served, {**OPTIONS, name: value})
    with pytest.raises(RecipeError, match="--batch-size is 0: expected 1 .. 4096"):
        ServeSettings(batch_size=0)


def test_nothing_is_requested_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building and launching a page, opening it, and asking it: every connection stays on this machine, where it
    listens alone; without `api` there are no endpoints."""
    asked: list[str] = []
    connect = socket.socket.connect

    def watch(self: socket.socket, address: Any) -> None:
        asked.append(str(address[0] if isinstance(address, tuple) else address))
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watch)
    with chdir(RUNS / "translation"):
        blocks = build_blocks("run")
    launch_blocks(blocks, prevent_thread_lock=True, quiet=True)
    try:
        assert blocks.local_url.startswith("http://127.0.0.1:") and not blocks.share_url and not blocks.share
        page = httpx.get(blocks.local_url).text
        config = httpx.get(f"{blocks.local_url}config").json()
        assert not [sheet for sheet in config["stylesheets"] if sheet.startswith("http")]
        assert "fonts.googleapis" not in httpx.get(f"{blocks.local_url}theme.css").text
        assert "<gradio-app" in page and not config["analytics_enabled"]
        assert not [call["api_name"] for call in config["dependencies"] if call["api_visibility"] != "private"]
    finally:
        blocks.close(verbose=False)
    assert asked and set(asked) <= {"127.0.0.1", "::1"}


def test_a_port_that_is_taken_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(RUNS / "translation" / "run"), "--port", str(port)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"plait serve: cannot listen on --host 127.0.0.1 --port {port}") and "choose another" in said


def test_the_page_says_what_the_model_is() -> None:
    served = load_run("classification")
    head, about = render_header(served), render_about(served)
    assert "<h1>classification</h1>" in head and "one of 4 labels for a text and an image" in head
    assert "validation accuracy 0.25" in head and "| validation | accuracy | 0.2500 | 0.2500 | 0.5000 |" in about
    assert "The model knows 4 labels and no others: blue, no, red, yes." in about and "A file may have 100 MB." in about
    assert "### Data" in about and "Source:" in about
