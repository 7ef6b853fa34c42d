"""Inputs that would hang, run something or eat memory are refused in words, with their row."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait.processing import PlaitProcessor
from plait.processing.audio import SMALL_CLIP, decode_audio
from plait.processing.errors import describe_error, name_error, renumber_error
from plait.processing.images import describe, read_image
from plait.processing.limits import CEILINGS, Ceiling, check_ceiling, read_changes
from plait.processing.video import FrameSampling, decode_video
from plait.training.data.tokenizer import train_tokenizer

FRAMES = ViTImageProcessorPil(size={"height": 16, "width": 16})
PROCESSOR = PlaitProcessor(
    tokenizer=train_tokenizer(["a red cat"], 8, vocab_size=300, min_frequency=1),
    feature_extractor=Wav2Vec2FeatureExtractor(),
    frame_processor=FRAMES,
    image_processor=FRAMES,
)
PIXEL = Image.new("RGB", (1, 1))


def save_image(image: Image.Image, kind: str = "PNG") -> bytes:
    """Returns the bytes of a file of an image."""
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that small inputs exceed."""
    for name in CEILINGS:
        monkeypatch.setitem(CEILINGS, name, CEILINGS[name]._replace(highest=100))


CLIP = {"array": np.zeros(50, np.float32), "sampling_rate": 1000}
BEYOND: dict[str, tuple[str, dict[str, Any]]] = {
    "pixels of a file": ("image_pixels", {"images": [None, save_image(Image.new("L", (101, 1)))]}),
    "pixels of an array": ("image_pixels", {"images": [None, np.zeros((30, 30, 3), np.uint8)]}),
    "pixels of a tensor": ("image_pixels", {"images": [None, torch.zeros(3, 30, 30)]}),
    "pixels once resized": ("image_pixels", {"images": [None, PIXEL], "size": {"height": 11, "width": 10}}),
    "shortest edge": ("image_pixels", {"images": [None, PIXEL], "size": {"shortest_edge": 11}}),
    "crop": ("image_pixels", {"images": [None, PIXEL], "size": {"height": 2, "width": 2}, "crop_size": {"height": 99,
                                                                                                       "width": 99}}),
    "samples once resampled": ("audio_samples", {"audio": [None, CLIP]}),
    "characters": ("text_characters", {"text": ["a", "a" * 101]}),
}  # fmt: skip


@pytest.mark.parametrize("name", BEYOND)
def test_more_than_the_limit_is_refused_with_its_row(name: str, low: None) -> None:
    limit, call = BEYOND[name]
    with pytest.raises(ValueError, match=rf"^\w+, row 1: .* more than 100: .*PLAIT_LIMITS={limit}=NUMBER"):
        PROCESSOR(**call)


@pytest.mark.parametrize("edge", [1e10, 1e160, 1e200, 10**400, float("inf")])
def test_a_size_beyond_every_number_is_refused(edge: float) -> None:
    for size in ({"shortest_edge": edge}, {"longest_edge": edge}, {"height": edge, "width": 2}):
        with pytest.raises(ValueError, match=r"^images, row 1: .*image_pixels"):
            PROCESSOR(images=[None, PIXEL], size=size)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "image_token": (5, True, ["<image>"]),
        "chat_template": (5, ["a"], {"default": 3}),
        "prompts": (5, "a", ["a"], {"query": 3}),
    }.items(),
)
def test_settings_that_are_no_texts_are_refused(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(TypeError, match=f"{name} is .*: pass a"):
            PlaitProcessor(tokenizer=PROCESSOR.tokenizer, **{name: value})


def test_padding_beyond_memory_is_refused() -> None:
    for options in ({"max_length": 10**9, "padding": "max_length"}, {"max_length": 2**59, "padding": "max_length"}):
        with pytest.raises(ValueError, match="batch_tokens"):
            PROCESSOR(text=["a cat"], **options)
    with pytest.raises(ValueError, match="batch_tokens"):
        PROCESSOR(text=["a cat"] * 20, pad_to_multiple_of=10**6)


def test_a_batch_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CEILINGS, "batch_bytes", Ceiling(4 * 3 * 16 * 16, "bytes"))
    assert PROCESSOR(images=[PIXEL])["pixel_values"].shape == (1, 1, 3, 16, 16)
    calls: list[dict[str, Any]] = [{"images": [PIXEL, PIXEL]}, {"videos": [[PIXEL, PIXEL]]}]
    for call in calls:
        with pytest.raises(ValueError, match="a batch of shape"):
            PROCESSOR(**call)


def test_a_video_of_too_many_pixels_or_frames_is_refused_before_they_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track: Any = container.add_stream("mpeg4", rate=25)
        track.width = track.height = 16
        for _ in range(4):
            container.mux(track.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(track.encode())
    content = stream.getvalue()
    assert len(decode_video(content, FrameSampling())) == 4
    for name, highest in {"video_pixels": 3 * 256, "video_frames": 3, "image_pixels": 255}.items():
        with monkeypatch.context() as changed:
            changed.setitem(CEILINGS, name, CEILINGS[name]._replace(highest=highest))
            with pytest.raises(ValueError, match=f"PLAIT_LIMITS={name}"):
                decode_video(content, FrameSampling())


def test_a_frame_that_is_repeated_is_processed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that many frames of a short video cost memory alone, which has its limit."""
    calls, whole = [], type(FRAMES).__call__
    monkeypatch.setattr(type(FRAMES), "__call__", lambda self, *a, **k: calls.append(1) or whole(self, *a, **k))
    film = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)
    values = PROCESSOR(videos=[film], videos_kwargs={"num_frames": 3000})["pixel_values_videos"]
    assert values.shape == (1, 1, 3000, 3, 16, 16) and len(calls) == 3
    assert np.array_equal(values[0, 0, ::1000], PROCESSOR(videos=[film])["pixel_values_videos"][0, 0])


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(800), 8000, format="WAV")
    (tmp_path / "other.mp4").write_bytes(b"never read")
    named = (tmp_path / "other.mp4").as_posix()
    for content in (f"#EXTM3U\n#EXTINF:1,\nfile://{named}\n", f"ffconcat version 1.0\nfile {named}\n"):
        with pytest.raises(ValueError, match="videos, row 0: .* is not a readable video file"):
            PROCESSOR(videos=[content.encode()])


def test_a_program_in_place_of_an_image_is_not_run() -> None:
    with pytest.raises(ValueError, match="images, row 0: .*EPS is a program, which is not run"):
        PROCESSOR(images=[save_image(Image.new("RGB", (4, 4)), "EPS")])


def test_silence_that_unpacks_to_gigabytes_is_refused() -> None:
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(400_000, np.int16), 8000, format="FLAC")
    content = bytearray(stream.getvalue())
    samples = SMALL_CLIP + 1  # the 36 bits of their number, in the first block, end 8 + 18 bytes into the file
    content[21] = (content[21] & 0xF0) | (samples >> 32)
    content[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    with pytest.raises(ValueError, match="is not a readable audio file"):
        decode_audio(bytes(content) + bytes(20_000))


@pytest.mark.parametrize("tensor", [torch.zeros(3, 4, 4).to("meta"), torch.zeros(4, 4).to_sparse()])
def test_a_tensor_without_values_is_refused_with_its_row(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="images, row 0: .* has no values that can be read: pass a dense tensor"):
        PROCESSOR(images=[tensor])


def test_half_a_surrogate_pair_is_refused_with_its_row_and_place() -> None:
    with pytest.raises(ValueError, match=r"text, row 1: character 2 is '\\udc00', half of a pair"):
        PROCESSOR(text=["a", "b \udc00 \ud800"])
    with pytest.raises(ValueError, match="text_target, row 0: character 0"):
        PROCESSOR(text_target=["\ud800"])


def test_memory_that_runs_out_is_an_error_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", run_out)
    calls: list[dict[str, Any]] = [{"images": [None, PIXEL]}, {"videos": [None, [PIXEL]]}]
    for call in calls:
        with pytest.raises(ValueError, match="row 1: .*does not fit into memory"):
            PROCESSOR(**call)


def test_a_path_is_shown_whole(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 40) / "picture.png"
    assert str(path) in describe(str(path)) and str(path) in describe({"path": str(path), "bytes": None})
    path.parent.mkdir()
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match=str(path)):
        read_image(path)


def test_a_row_of_the_batch_becomes_the_row_of_the_data() -> None:
    error = renumber_error(name_error(OSError("gone"), "images, row 2"), [7, 8, 1041])
    assert type(error) is OSError and str(error) == "images, row 1041 of the data: gone"
    for other in (ValueError("row 2 is bad"), ValueError("images, row 9: bad")):
        assert renumber_error(other, [7, 8, 1041]) is other
    assert "does not fit into memory" in str(name_error(MemoryError(), "audio, row 0"))
    assert describe_error(KeyError()) == "KeyError"


def test_limits_are_read_from_the_environment() -> None:
    assert read_changes("image_pixels=300_000, text_characters=5")["image_pixels"].highest == 300_000
    assert read_changes("") == {}
    for text in ("pixels=3", "image_pixels", "image_pixels=0", "image_pixels=-1", "image_pixels=1e9"):
        with pytest.raises(ValueError, match="write NAME=NUMBER"):
            read_changes(text)
    with pytest.raises(ValueError, match="more than"):
        check_ceiling("text_characters", float("nan"), "x")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import limits; print(limits.CEILINGS['image_pixels'].highest)"
    folder = str(Path(sys.modules[read_changes.__module__].__file__ or "").parent)
    command = [sys.executable, "-S", "-c", code, folder]
    found = subprocess.run(command, env={"PLAIT_LIMITS": "image_pixels=77"}, capture_output=True, text=True, check=True)
    assert found.stdout == "77\n"
