"""Texts by a plain request: the answers of the endpoint /predict, in one reply, and what is refused."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from typing import Any

import httpx
import pytest

from plait.training.runs.predict import predict_batch
from plait.training.serving import ServedModel, ServeSettings, build_blocks, launch_blocks

from .conftest import RUNS, VALUES, fill_in, load_run

Launch = Callable[[ServedModel], tuple[Any, Any]]
JSON = {"Content-Type": "application/json"}


def post(launched: Launch, name: str, body: Any, **headers: str) -> httpx.Response:
    """Posts a body, bytes as they are and anything else as JSON, to the page of a run."""
    blocks, _ = launched(load_run(name))
    content = body if isinstance(body, bytes) else json.dumps(body)
    return httpx.post(f"{blocks.local_url}predict", content=content, headers={**JSON, **headers}, timeout=60)


@pytest.mark.parametrize("name", ["classification", "question_answering", "translation", "dialogue"])
def test_texts_are_answered_as_predict_does(name: str, launched: Launch) -> None:
    served = load_run(name)
    values = {key: value for key, value in fill_in(served, VALUES[name]).items() if key != "file"}
    reply = post(launched, name, values)
    assert reply.status_code == 200
    (expected,) = predict_batch(served.model, served.collator, [served.build_row(values)])
    assert reply.json() == pytest.approx(expected) if name != "classification" else reply.json() == expected


def test_requests_of_the_same_time_are_each_answered(launched: Launch) -> None:
    texts = ["is it red ?", "what colour is it ?", "is it blue", "red", "is it", "what"]
    alone = [post(launched, "classification", {"question": text}).json() for text in texts]
    with ThreadPoolExecutor(len(texts)) as threads:
        together = list(threads.map(lambda text: post(launched, "classification", {"question": text}).json(), texts))
    for found, expected in zip(together, alone, strict=True):
        assert found["label"] == expected["label"]
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=2e-6)


def test_what_is_wrong_is_said(launched: Launch) -> None:
    """A file of the server cannot be named; a body of another site, which can send no JSON, is refused."""
    wrong = {
        "'file' is no text of this model": {"file": "/etc/hostname"},
        "did you mean 'question'": {"quesion": "is it red ?"},
        "nothing is filled in: give question or file": {"question": " "},
        "expected a JSON object with question": ["is it red ?"],
        "the body is no JSON": b"{",
        "question: int '3' is no text: give a text": {"question": 3},
    }
    for message, body in wrong.items():
        reply = post(launched, "classification", body)
        assert reply.status_code == 422 and message in reply.json()["error"], (message, reply.text)
    plain = post(launched, "classification", {"question": "is it red ?"}, **{"Content-Type": "text/plain"})
    assert plain.status_code == 415 and "text/plain" in plain.json()["error"]
    assert post(launched, "translation", {"text": "a", "max_new_tokens": 513}).status_code == 422


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "options", "statuses"),
    [
        (ServeSettings(), {}, {404, 405}),
        (ServeSettings(api=True), {"auth": ("me", "secret")}, {401, 404, 405}),
        (ServeSettings(api=True, max_file_megabytes=1), {}, {413}),
    ],
)
def test_without_an_api_or_with_a_password_there_is_no_route(
    settings: ServeSettings, options: dict[str, Any], statuses: set[int]
) -> None:
    with chdir(RUNS / "classification"):
        blocks = build_blocks("run", settings)
    launch_blocks(blocks, prevent_thread_lock=True, quiet=True, **options)
    try:
        large = json.dumps({"question": "a" * 2**20})
        assert httpx.post(f"{blocks.local_url}predict", content=large, headers=JSON).status_code in statuses
    finally:
        blocks.close(verbose=False)
