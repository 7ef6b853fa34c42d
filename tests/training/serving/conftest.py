"""Served models of every task: the saved runs of tests/compatibility, and tiny models of the other classes."""

from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from plait.training.serving import ServedModel, ServeSettings, build_blocks, launch_blocks

RUNS = Path(__file__).parents[2] / "compatibility" / "runs"
IMAGE = str(RUNS / "classification" / "images" / "red.png")
VALUES: dict[str, dict[str, Any]] = {  # what each page is given, by the label of its field
    "classification": {"question": "is it red ?", "file": IMAGE},
    "causal_lm": {"text": "a red"},
    "captioning": {"image": IMAGE},
    "dialogue": {"messages": [{"role": "user", "content": "Where does Anna live ?"}]},
    "masked_lm": {"text": "a [MASK] dog"},
    "pretraining": {"text": "a red square", "image": IMAGE},
    "question_answering": {"question": "Where does Ben live ?", "context": "Nobody comes . Ben lives in Paris ."},
    "retrieval": {"text": "a red square", "image": IMAGE},
    "translation": {"text": "a big dog"},
}


@cache
def load_run(name: str) -> ServedModel:
    with chdir(RUNS / name):
        return ServedModel("run", ServeSettings(api=True, batch_size=4), name=name)


def fill_in(served: ServedModel, values: dict[str, Any]) -> dict[str, Any]:
    return {field.name: values.get(field.label) for field in served.fields}


@pytest.fixture(scope="session")
def launched() -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Launches the page of a model, once, and returns its Blocks and a client."""
    from gradio_client import Client

    found: dict[int, tuple[Any, Any]] = {}

    def launch(served: ServedModel) -> tuple[Any, Any]:
        if id(served) not in found:
            blocks = build_blocks(served)
            launch_blocks(blocks, prevent_thread_lock=True, quiet=True)
            found[id(served)] = blocks, Client(blocks.local_url, verbose=False)
        return found[id(served)]

    yield launch
    for blocks, _ in found.values():
        blocks.close(verbose=False)
