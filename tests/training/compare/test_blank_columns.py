"""Blank inputs of a modality, as the audit of a comparison gives them."""

from io import BytesIO

import numpy as np
from PIL import Image

from plait.training.compare.modality_ablation import generate_variations
from plait.training.explanations.blanks import build_blank_columns, build_blank_value, shuffle_rows


def open_image(value: dict[str, bytes]) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(value["bytes"])))


def test_ids_become_none_and_inputs_blank() -> None:
    row = {"image": Image.new("RGB", (4, 4), "red"), "image_id": "7", "text": "a cat"}
    blank = build_blank_columns(row, ["image", "image_id"], "image")
    assert blank["image_id"] is None
    assert len(np.unique(open_image(blank["image"]))) == 1
    several = build_blank_columns({"image": [row["image"]] * 3}, ["image"], "image")["image"]
    assert [len(np.unique(open_image(image))) for image in several] == [1] * 3


def test_silence_is_float32_and_an_absent_clip_stays_absent() -> None:
    blank = build_blank_columns({"audio": np.ones(8, np.float32), "audio_id": 3}, ["audio", "audio_id"], "audio")
    clip = blank["audio"]["array"] if isinstance(blank["audio"], dict) else blank["audio"]
    assert blank["audio_id"] is None and clip.dtype == np.float32 and not clip.any()
    assert build_blank_columns({"audio": None}, ["audio"], "audio")["audio"] is None


def test_no_row_keeps_its_place() -> None:
    rows = [{"text": str(number)} for number in range(9)]
    moved = shuffle_rows(rows, seed=0)
    assert sorted(row["text"] for row in moved) == sorted(row["text"] for row in rows)
    assert all(old is not new for old, new in zip(rows, moved, strict=True))


def test_a_cycle_is_drawn_by_its_seed() -> None:
    rows = [{"text": str(number)} for number in range(9)]
    assert shuffle_rows(rows, seed=0) == shuffle_rows(rows, seed=0) != shuffle_rows(rows, seed=1)
    place, seen = 0, []
    for _ in rows:  # row 0 came from here, which came from there, ... and back to row 0 after all rows
        place = int(shuffle_rows(rows, seed=3)[place]["text"])
        seen.append(place)
    assert sorted(seen) == list(range(9)) and seen[-1] == 0


def test_every_variation_replaces_its_columns_alone() -> None:
    rows = [{"text": f"t{n}", "audio": np.full(4, n, np.float32), "audio_id": n, "label": n} for n in range(4)]
    found = dict(generate_variations(rows, ("text", "audio"), seed=0))
    assert list(found) == ["only text", "only audio", "shuffled text", "blank text", "shuffled audio", "blank audio"]
    for made in found.values():
        assert [row["label"] for row in made] == [0, 1, 2, 3]
        assert all(row.keys() == rows[0].keys() for row in made)
    assert all(row["audio"] is None and row["audio_id"] is None and row["text"] for row in found["only text"])
    assert all(row["text"] is None and row["audio"] is not None for row in found["only audio"])
    assert [row["text"] for row in found["blank text"]] == [""] * 4
    for number, row in enumerate(found["shuffled audio"]):
        assert row["audio_id"] == row["audio"][0] != number and row["text"] == f"t{number}"
    for row in found["blank audio"]:
        assert row["audio"]["array"].shape == (16000,) and row["audio"]["sampling_rate"] == 16000
    assert [row["audio_id"] for row in found["blank audio"]] == [None] * 4


def test_blank_values_by_their_kind() -> None:
    assert build_blank_value(25.0, "video") == 25.0 and build_blank_value(16000, "audio") == 16000
    assert [open_image(frame).shape for frame in build_blank_value(["frames"] * 9, "video")] == [(32, 32, 3)] * 2
    grey = open_image(build_blank_value("a path", "image"))
    assert grey.shape == (32, 32, 3) and set(grey.flatten().tolist()) == {127}
    assert build_blank_value(["a", "b", "c"], "text") == ["", "", ""]
    assert build_blank_value([0.5, 0.25], "audio")["sampling_rate"] == 16000  # samples, not a list of clips
