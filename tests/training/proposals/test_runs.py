"""Every kind of table becomes a run that trains, measures and answers, with tiny towers in place of pretrained ones."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plait

from .tables import COLOURS, picture, reviews, sound

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {"model.text": {"config": {**SIZES, "max_position_embeddings": 64}}}
TEXT |= {"tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}}}
IMAGE = {"model.image": {"config": {"model_type": "plait_cnn", "image_size": 24, "embedding_size": 8}}}
IMAGE["model.image"]["config"] |= {"hidden_sizes": [8], "depths": [1]}
AUDIO = {"model.audio": {"config": {"model_type": "plait_rnn", "num_mel_bins": 8, "rnn_size": 8}}}
DECODER = {"model.decoder": {"config": {**SIZES, "max_position_embeddings": 64}}, "tokenizer": TEXT["tokenizer"]}
FUSION = {"model.fusion_config": {**SIZES, "intermediate_size": 16}}
BRIEF = {"training.max_steps": 2, "training.eval_steps": 2, "training.save_steps": 2, "training.disable_tqdm": True}
BRIEF |= {"training.report_to": "none", "training.eval_strategy": "steps", "training.save_strategy": "steps"}


def colour(number: int) -> tuple[str, bytes]:
    """The name of a colour, and a picture of it that no other row has."""
    name = list(COLOURS)[number % 3]
    return name, picture((*COLOURS[name][:2], number), 24)


def posts() -> list[dict[str, Any]]:
    """Texts and pictures, each missing somewhere, and a row that has neither."""
    rows = []
    for number, row in enumerate(reviews(40)):
        body = None if number % 5 == 0 else row["body"]
        photo = None if number % 4 == 0 else colour(number)[1]
        rows.append({"title": f"on {row['city']} number {number}", "body": body, "photo": photo, "mood": row["mood"]})
    rows[0]["title"] = None
    return rows


def captions() -> list[dict[str, Any]]:
    """Pictures with two captions each."""
    shown = [colour(number) for number in range(40)]
    return [{"photo": image, "captions": [f"a {name} square", f"all of it {name}"]} for name, image in shown]


def films() -> list[dict[str, Any]]:
    """Arrays of frames."""
    chance = np.random.default_rng(0)
    return [{"film": chance.integers(0, 255, (4, 16, 16, 3), "uint8"), "mood": "ab"[n % 2]} for n in range(40)]


def sounds() -> list[dict[str, Any]]:
    """Clips as bytes of files."""
    return [{"clip": sound(200 + n + 700 * (n % 2)), "mood": ("low", "high")[n % 2]} for n in range(40)]


def clips_and_prices() -> list[dict[str, Any]]:
    """Clips as arrays, and numbers."""
    chance = np.random.default_rng(0)
    made = [chance.normal(size=1600).astype("float32") for _ in range(40)]
    return [{"clip": {"array": x, "sampling_rate": 8000}, "price": n * 1.5} for n, x in enumerate(made)]


def tagged() -> list[dict[str, Any]]:
    """Texts with several labels."""
    return [{"body": row["body"], "tags": ["a", "b"] if n % 2 else ["b", "c"]} for n, row in enumerate(reviews(40))]


RUNS: dict[str, tuple[Callable[[], list[dict[str, Any]]], str | None, dict[str, Any]]] = {
    "texts and pictures": (posts, "mood", {**TEXT, **IMAGE, **FUSION}),
    "several labels": (tagged, "tags", TEXT),
    "captions": (captions, "captions", {**IMAGE, **DECODER}),
    "a search": (captions, None, {**TEXT, **IMAGE, "task": "retrieval"}),
    "films": (films, "mood", {}),
    "sounds": (sounds, "mood", AUDIO),
    "sounds to numbers": (clips_and_prices, "price", AUDIO),
    "drawing": (lambda: [{"words": c, "photo": p} for c, p in map(colour, range(40))], "photo", TEXT),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_table_of_any_kind_becomes_a_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    make, target, towers = RUNS[kind]
    recipe = {**BRIEF, **towers, "model.freeze": []}
    inputs = ["words"] if kind == "drawing" else None
    if kind == "drawing":
        recipe |= {"model.options": {**SIZES, "image_size": 16, "patch_size": 8}}
    fitted = plait.fit(make(), target, inputs=inputs, output_dir="run", verbose=False, recipe=recipe)
    assert fitted.metrics and all(map(math.isfinite, fitted.metrics.values()))
    rows = [{name: value for name, value in row.items() if name != target} for row in make()[1:4]]
    answers = fitted.predict(rows) if kind != "a search" else []
    assert len(answers) == (0 if kind == "a search" else 3)
