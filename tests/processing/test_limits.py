"""Numbers that are out of range, and files whose headers lie: an error that names the value or the row, at once."""

import io
import struct
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait.configuration import PlaitVisionConfig
from plait.processing import PlaitProcessor
from plait.processing.audio import check_wave_is_whole, decode_audio, scale_to_float
from plait.processing.limits import LIMITS, check_number, check_numbers
from plait.training.data.tokenizer import train_tokenizer

ABSURD = (0, -1, float("inf"), float("-inf"), float("nan"), 1e-300, 1e300, True, "16", 2**63, 1j, [8])
FILM = np.zeros((4, 16, 16, 3), np.uint8)
SAMPLES = np.zeros(1600, np.float32)
TOKENIZER = train_tokenizer(["a red cat"], 8, vocab_size=300, min_frequency=1)
FRAMES = ViTImageProcessorPil(size={"height": 16, "width": 16})
PROCESSOR = PlaitProcessor(
    tokenizer=TOKENIZER, feature_extractor=Wav2Vec2FeatureExtractor(), frame_processor=FRAMES, image_processor=FRAMES
)
INLINE = PlaitProcessor(tokenizer=TOKENIZER, image_token="<image>", num_image_tokens=2)
PLACES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "call": ("sampling_rate", lambda value: PROCESSOR(audio=[SAMPLES], sampling_rate=value)),
    "clip": ("sampling_rate", lambda value: PROCESSOR(audio=[{"array": SAMPLES, "sampling_rate": value}])),
    "video": ("video_fps", lambda value: PROCESSOR(videos=[FILM], video_fps=value)),
    "fps": ("fps", lambda value: PROCESSOR(videos=[FILM], video_fps=4, videos_kwargs={"fps": value})),
    "frames": ("num_frames", lambda value: PROCESSOR(videos=[FILM], videos_kwargs={"num_frames": value})),
    "class fps": ("fps", lambda value: PlaitProcessor(frame_processor=FRAMES, fps=value)),
    "class frames": ("num_frames", lambda value: PlaitProcessor(frame_processor=FRAMES, num_frames=value)),
    "compose fps": ("fps", lambda value: PlaitProcessor.compose(video=PlaitVisionConfig(image_size=16), fps=value)),
    "compose frames": (
        "num_frames",
        lambda value: PlaitProcessor.compose(video=PlaitVisionConfig(image_size=16), num_frames=value),
    ),
    "target": ("max_target_length", lambda value: PROCESSOR(text_target=["a cat"], max_target_length=value)),
    "length": ("max_length", lambda value: PROCESSOR(text=["a cat"], max_length=value, truncation=True)),
    "group": ("max_length", lambda value: PROCESSOR(text=["a cat"], text_kwargs={"max_length": value})),
    "multiple": ("pad_to_multiple_of", lambda value: PROCESSOR(text=["a cat"], pad_to_multiple_of=value)),
    "images": ("num_images", lambda value: INLINE(text=["<image> a"], num_images=[value])),
    "tokens": (
        "num_image_tokens",
        lambda value: PlaitProcessor(tokenizer=TOKENIZER, image_token="<image>", num_image_tokens=value),
    ),
}


def test_every_number_has_a_place() -> None:
    assert {name for name, _ in PLACES.values()} == set(LIMITS)


@pytest.mark.parametrize("place", PLACES)
def test_an_absurd_number_is_an_error_that_names_it(place: str) -> None:
    name, call = PLACES[place]
    for value in ABSURD:
        if name == "num_images" and value == 0 and value is not True:
            continue
        with pytest.raises(ValueError, match=f"{name} is "):
            call(value)


@pytest.mark.parametrize("name", LIMITS)
def test_numbers_of_every_type_within_the_range(name: str) -> None:
    for value in (200, np.int64(200), np.int16(200), torch.tensor(200), np.array(200), None):
        check_number(name, value)
    if not LIMITS[name].whole:
        for value in (200.5, np.float32(200.5), torch.tensor(200.5)):
            check_number(name, value)


# the last number on either side that means something, and the first beyond it
EDGES = {
    "sampling_rate": ((99.9, 100), (10**7, 10**7 + 1)),
    "video_fps": ((0.99e-6, 1e-6), (10_000, 10_000.5)),
    "fps": ((0.99e-6, 1e-6), (10_000, 10_000.5)),
    "num_frames": ((0, 1), (10**5, 10**5 + 1)),
    "num_image_tokens": ((0, 1), (10**6, 10**6 + 1)),
    "num_images": ((-1, 0), (10**6, 10**6 + 1)),
    "max_target_length": ((0, 1), (2**60, 2**60 + 1)),
    "max_length": ((0, 1), (2**60, 2**60 + 1)),
    "pad_to_multiple_of": ((0, 1), (10**6, 10**6 + 1)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_range_ends_where_it_says(name: str) -> None:
    (below, lowest), (highest, above) = EDGES[name]
    for value in (lowest, highest):
        check_numbers({name: value, "other": -1})
    for value in (below, above):
        with pytest.raises(ValueError, match=f"{name} is {value}: pass .* from .* to "):
            check_numbers({"other": -1, name: value})


@pytest.mark.parametrize("name", LIMITS)
def test_counts_are_whole(name: str) -> None:
    if LIMITS[name].whole:
        with pytest.raises(ValueError, match=rf"{name} is 8\.5: pass .*, a whole number from"):
            check_number(name, 8.5)
    else:
        with pytest.raises(ValueError, match=rf"{name} is -1: pass .*, a number from"):
            check_number(name, -1)


def test_a_clip_with_the_rate_of_its_extractor_needs_no_usual_rate() -> None:
    slow = PlaitProcessor(feature_extractor=Wav2Vec2FeatureExtractor(sampling_rate=50))
    assert slow(audio=[SAMPLES], sampling_rate=50)["input_values"].shape == (1, 1, 1600)


def write_audio(kind: str, samples: np.ndarray) -> bytearray:
    subtype = {"MP3": "MPEG_LAYER_III", "OGG": "VORBIS"}.get(kind)
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format=kind, subtype=subtype)
    return bytearray(file.getvalue())


def damage_header(kind: str) -> bytes:
    """A file whose header says that it has a huge number of samples."""
    content = write_audio(kind, np.zeros(16000))
    if kind == "MP3":
        place = max(content.find(b"Info"), content.find(b"Xing")) + 8
        content[place : place + 4] = struct.pack(">I", 0x7FFFFFFF)
    else:
        content[18:26] = (int.from_bytes(content[18:26], "big") | (2**36 - 1)).to_bytes(8, "big")
    return bytes(content)


@pytest.mark.parametrize("kind", ["MP3", "FLAC"])
def test_a_header_that_asks_for_terabytes(kind: str) -> None:
    with pytest.raises(ValueError, match=r"audio, row 1: .* not a readable audio file: its header announces \d+ sam"):
        PROCESSOR(audio=[SAMPLES, damage_header(kind)], sampling_rate=16000)


def test_more_samples_than_silence_takes_are_not_believed() -> None:
    """A header may announce 10,000 samples for every byte of its file, and not one more."""
    content = write_audio("FLAC", np.zeros(16))
    content[18:26] = (int.from_bytes(content[18:26], "big") & ~(2**36 - 1) | 10_000 * len(content) + 1).to_bytes(
        8, "big"
    )
    with pytest.raises(ValueError, match=f"its header announces {10_000 * len(content) + 1} samples in"):
        decode_audio(bytes(content))


def test_floats_far_beyond_one_are_integers_in_disguise() -> None:
    assert scale_to_float(np.array([0.5, -100.0])).tolist() == [0.5, -100.0]
    with pytest.raises(ValueError, match=r"has values up to 100\.5, but floats must be within -1\.\.1"):
        scale_to_float(np.array([0.5, -100.5]))


def test_a_stream_that_does_not_say_how_long_it_is() -> None:
    content = write_audio("FLAC", np.zeros(16000))
    content[18:26] = (int.from_bytes(content[18:26], "big") & ~(2**36 - 1)).to_bytes(8, "big")
    with pytest.raises(ValueError, match=r"audio, row 0: .* its header does not say how long it is"):
        PROCESSOR(audio=[bytes(content)])


def write_video() -> bytearray:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for frame in FILM:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return bytearray(file.getvalue())


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AU", "mp4"])
def test_damaged_files_are_read_or_named(kind: str) -> None:
    """Large numbers in the place of others, wherever they stand in a header or a video's table."""
    sound = write_audio(kind, np.sin(np.arange(1600) / 9)) if kind != "mp4" else write_video()
    random = np.random.default_rng(0)
    problems = []
    for number in range(24):
        content = bytearray(sound)
        place = int(random.integers(0, 120 if kind != "mp4" else len(content) - 4))
        content[place : place + 4] = (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0")[number % 3]
        given = {"videos" if kind == "mp4" else "audio": [None, bytes(content)]}
        try:
            PROCESSOR(**given, **({"videos_kwargs": {"fps": 2, "num_frames": 4}} if kind == "mp4" else {}))
        except ValueError as error:
            problems.append(str(error))
    assert problems and all(problem.startswith(f"{next(iter(given))}, row 1: ") for problem in problems)


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.1])
def test_a_wave_file_that_was_cut_off_is_refused(kept: float) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000, dtype=np.float32), 16000, format="WAV")
    whole = file.getvalue()
    assert len(decode_audio(whole)[0]) == 8000
    with pytest.raises(ValueError, match=r"announces 16000 bytes of samples, but it holds \d+: it is cut off"):
        decode_audio(whole[: int(kept * len(whole))])


@pytest.mark.parametrize("size", [2**32 - 1, 2**32 - 2**12])
def test_a_streamed_wave_file_of_unknown_size_is_read(size: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800, dtype=np.float32), 16000, format="WAV")
    content = bytearray(file.getvalue())
    place = content.index(b"data")
    content[place + 4 : place + 8] = size.to_bytes(4, "little")
    check_wave_is_whole(bytes(content))
