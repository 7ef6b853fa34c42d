"""Requests of the same time share a forward, with the answers that they get alone."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from plait.training.serving.batching import RequestBatcher

from .conftest import IMAGE, load_run


def count_waiting(batcher: RequestBatcher, count: int) -> None:
    """Waits until this many requests wait."""
    until = time.monotonic() + 20
    while len(batcher.waiting) < count and time.monotonic() < until:
        time.sleep(0.005)
    assert len(batcher.waiting) == count


def ask_together(batcher: RequestBatcher, requests: list[tuple[dict[str, Any], tuple[Any, ...]]]) -> list[Any]:
    """The outcomes of requests that come while the model is busy."""

    def ask(request: tuple[dict[str, Any], tuple[Any, ...]]) -> Any:
        try:
            return batcher.submit(*request)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(requests)) as threads:
        with batcher.working:
            found = [threads.submit(ask, request) for request in requests]
            count_waiting(batcher, len(requests))
        return [outcome.result(timeout=60) for outcome in found]


def test_requests_of_the_same_time_share_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine rows, of which one lacks its text and one its image, in batches of four."""
    served = load_run("classification")
    texts = ["is it red ?", "what colour is it ?", None, "is it blue", "red", "is it", "what", "it ?", "colour"]
    images = [IMAGE, IMAGE.replace("red", "blue"), IMAGE, None, *[IMAGE] * 5]
    rows = [{"text": text, "image": image} for text, image in zip(texts, images, strict=True)]
    alone = [served.answer_rows([row], {})[0] for row in rows]
    sizes: list[int] = []
    answer = served.batcher.answer

    def count(rows: Any, options: dict[str, Any]) -> list[Any]:
        sizes.append(len(rows))
        return answer(rows, options)

    monkeypatch.setattr(served.batcher, "answer", count)
    together = ask_together(served.batcher, [(row, ()) for row in rows])
    assert sizes == [4, 4, 1]
    for found, expected in zip(together, alone, strict=True):
        assert found["label"] == expected["label"]
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=2e-6)


def test_a_row_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    served = load_run("classification")
    (tmp_path / "broken.png").write_text("no picture")
    rows = [{"text": "red", "image": IMAGE}, {"text": "red", "image": str(tmp_path / "broken.png")}]
    whole, broken = ask_together(served.batcher, [(row, ()) for row in rows])
    assert whole["label"] and isinstance(broken, ValueError) and "broken.png" in str(broken)
    assert not served.batcher.waiting


def test_requests_with_other_settings_are_answered_apart() -> None:
    """And an error of the model itself reaches everyone who waits for it."""
    calls: list[tuple[int, dict[str, Any]]] = []

    def answer(rows: Any, options: dict[str, Any]) -> list[Any]:
        calls.append((len(rows), options))
        if options.get("fails"):
            raise RuntimeError("out of memory")
        return [row["number"] for row in rows]

    batcher = RequestBatcher(answer, 8)
    options: list[tuple[Any, ...]] = [(), (("beams", 2),), (), (("fails", True),), (("fails", True),), ()]
    found = ask_together(batcher, [({"number": number}, chosen) for number, chosen in enumerate(options)])
    assert found[:3] + found[5:] == [0, 1, 2, 5] and {str(error) for error in found[3:5]} == {"out of memory"}
    assert sorted(calls, key=str) == sorted([(3, {}), (1, {"beams": 2}), (2, {"fails": True})], key=str)
