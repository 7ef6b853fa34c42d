"""Blank inputs of a modality, as the audit of a comparison gives them."""

from io import BytesIO

import numpy as np
from PIL import Image

from plait.training.compare.modality_ablation import build_blank_columns, shuffle_rows


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
