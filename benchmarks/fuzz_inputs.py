"""Random inputs of a processor, most of them wrong: values of every type, shape and size, and damaged media files."""

import io
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
from PIL import Image

ODD_NUMBERS = (0, -1, 1, 2, 7, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), 2**31, 2**63, 10**30, True, 1j)
ODD_VALUES = (None, "", "x", b"", b"\x00", [], {}, (), [[]], [None], {"a": 1}, object(), 3, -2.5, {1}, range(3), type)
DTYPES = (
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "bool",
    "O",
)
ALPHABETS = (string.printable, "aé漢🙂\u200b\u202e", "\ud800\udfff a", "\x00\x1b", "[PAD]<image>", "  \n\t", "a")
SECONDS = 10  # a case that takes longer hangs


def make_seeds() -> dict[str, list[bytes]]:
    """Returns small whole files of every format that can be written here, by modality."""
    draw = np.random.default_rng(0)
    pixels, samples = draw.integers(0, 255, (9, 7, 3), np.uint8), draw.standard_normal(400).astype(np.float32) / 9
    seeds: dict[str, list[bytes]] = {"images": [], "audio": [], "videos": []}
    for kind in (
        "PNG",
        "JPEG",
        "GIF",
        "BMP",
        "TIFF",
        "WEBP",
        "PPM",
        "TGA",
        "ICO",
        "PCX",
        "SGI",
        "DDS",
        "IM",
        "ICNS",
        "EPS",
    ):
        for mode in ("RGB", "L", "P", "RGBA", "I;16", "1"):
            stream = io.BytesIO()
            try:
                Image.fromarray(pixels).convert("L" if mode == "I;16" else mode).convert(mode).save(stream, kind)
            except (OSError, ValueError, KeyError):
                continue
            seeds["images"].append(stream.getvalue())
    for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64"):
        stream = io.BytesIO()
        soundfile.write(
            stream, np.stack([samples, samples], 1) if kind in ("FLAC", "WAV") else samples, 8000, format=kind
        )
        seeds["audio"].append(stream.getvalue())
    for kind, codec in (
        ("mp4", "mpeg4"),
        ("avi", "mpeg4"),
        ("gif", "gif"),
        ("matroska", "mpeg4"),
        ("mpegts", "mpeg2video"),
    ):
        seeds["videos"].append(write_video(kind, codec))
    seeds["videos"] += [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>",
    ]
    return seeds


def write_video(kind: str, codec: str) -> bytes:
    """Returns a video of four frames of 16x16 pixels."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as container:
        track: Any = container.add_stream(codec, rate=25)
        track.width = track.height = 16
        track.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for shade in (0, 60, 120, 250):
            for packet in track.encode(av.VideoFrame.from_ndarray(np.full((16, 16, 3), shade, np.uint8), "rgb24")):
                container.mux(packet)
        for packet in track.encode():
            container.mux(packet)
    return stream.getvalue()


def damage(content: bytes, draw: random.Random) -> bytes:
    """Returns a file with flipped bits, numbers overwritten, parts cut, moved, repeated or put in; or as it was."""
    found = bytearray(content)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 4, 16))):
        size = len(found)
        place = draw.randrange(size) if size else 0
        kind = draw.choice(("flip", "number", "cut", "drop", "repeat", "insert", "head"))
        if kind == "flip" and size:
            found[place] ^= 1 << draw.randrange(8)
        elif kind == "number":
            width = draw.choice((1, 2, 4, 8))
            value = draw.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1, draw.getrandbits(8 * width)))
            found[place : place + width] = value.to_bytes(width, draw.choice(("little", "big")))
        elif kind == "cut":
            del found[place:]
        elif kind == "drop":
            del found[place : place + draw.randrange(64)]
        elif kind == "repeat":
            found[place:place] = found[place : place + draw.randrange(256)] * draw.randrange(1, 4)
        elif kind == "insert":
            found[place:place] = draw.randbytes(draw.randrange(32))
        elif kind == "head" and size:
            found[draw.randrange(min(64, size))] = draw.randrange(256)
    return bytes(found)


class InputMaker:
    """Makes the arguments of a processor's call; every choice comes from `draw`."""

    def __init__(self, seeds: dict[str, list[bytes]], folder: Path, draw: random.Random) -> None:
        self.seeds, self.folder, self.draw = seeds, folder, draw
        self.makers: dict[str, Callable[[], Any]] = {
            "text": self.make_text,
            "images": self.make_image,
            "audio": self.make_audio,
            "videos": self.make_video,
            "text_target": self.make_text,
            "target_images": self.make_image,
        }

    def make_call(self) -> dict[str, Any]:
        """Returns the arguments of one call."""
        draw = self.draw
        names = draw.sample(sorted(self.makers), draw.choice((1, 1, 1, 2)))
        rows = draw.choice((1, 1, 2, 3))
        call: dict[str, Any] = {name: [self.makers[name]() for _ in range(rows)] for name in names}
        for name in names:
            if draw.random() < 0.1:
                call[name] = draw.choice((call[name][0], draw.choice(ODD_VALUES), [call[name]], tuple(call[name])))
        if draw.random() < 0.5:
            call |= self.make_options()
        return call | ({"return_tensors": draw.choice(("pt", "np", None, "x", 3))} if draw.random() < 0.5 else {})

    def make_options(self) -> dict[str, Any]:
        """Returns options of the call, with odd values."""
        draw = self.draw
        names = (
            "sampling_rate video_fps num_frames fps max_length padding truncation pad_to_multiple_of size crop_size "
        )
        names += (
            "do_resize resample image_mean rescale_factor text_pair max_target_length num_images prompt do_rescale "
        )
        names += "padding_side add_special_tokens return_offsets_mapping do_normalize do_sample_frames unknown"
        found: dict[str, Any] = {}
        for name in draw.sample(names.split(), draw.choice((1, 1, 2))):
            value = draw.choice((*ODD_NUMBERS, *ODD_VALUES, True, False, "max_length", 16000, 8, [8, 8], 10**9))
            if name.endswith("size") and draw.random() < 0.7:
                value = {draw.choice(("height", "shortest_edge", "longest_edge", "width")): value, "width": 8}
            group = draw.choice((None, None, "text_kwargs", "images_kwargs", "audio_kwargs", "videos_kwargs"))
            found |= {name: value} if group is None else {group: {name: value}}
        return found

    def make_text(self) -> Any:
        """Returns a text, or what is none."""
        draw = self.draw
        if draw.random() < 0.1:
            return draw.choice(ODD_VALUES)
        length = draw.choice((0, 1, 5, 50, 50, 1000, 20_000))
        if draw.random() < 0.002:
            length = draw.choice((3_000_000, 5_000_000, 10**8))
        alphabet = draw.choice(ALPHABETS)
        return "".join(draw.choices(alphabet, k=min(length, 2000))) * max(1, length // 2000)

    def make_file(self, modality: str) -> Any:
        """Returns a damaged file, as bytes, in a mapping, or as a path."""
        draw = self.draw
        content = damage(draw.choice(self.seeds[modality]), draw)
        if draw.random() < 0.05:
            content = draw.randbytes(draw.randrange(300))
        kind = draw.choice(("bytes", "bytes", "bytes", "mapping", "path", "lost"))
        if kind == "bytes":
            return content
        if kind == "mapping":
            return {"bytes": draw.choice((content, content, None, 3, b"")), "path": draw.choice((None, "x.png", 3, {}))}
        file = self.folder / f"file{draw.randrange(3)}"
        file.write_bytes(content)
        lost = ("", "\x00", "a\x00b", "/dev/zero", "/", "x" * 5000, "http://x/y", "~/x", "\ud800", str(self.folder))
        return str(file) if kind == "path" else draw.choice(lost)

    def make_array(self, dimensions: tuple[int, ...]) -> Any:
        """Returns an array or tensor of random shape, type and values."""
        draw = self.draw
        shape = tuple(draw.choice((0, 1, 2, 3, 4, 8, 17, 300)) for _ in range(draw.choice(dimensions)))
        if np.prod(shape, dtype=float) > 10**6:
            shape = tuple(min(edge, 8) for edge in shape)
        scale = draw.choice((0, 1, 255, 70_000, 1e30))
        values = np.asarray(np.random.default_rng(draw.getrandbits(32)).random(shape) * scale)
        if values.size and draw.random() < 0.1:
            values.flat[0] = draw.choice((np.nan, np.inf, -1))
        with np.errstate(all="ignore"):
            array = values.astype(draw.choice(DTYPES))
        if draw.random() < 0.05:  # a large array that takes no memory
            array = np.broadcast_to(array.reshape(-1)[:1] if array.size else np.zeros(1), (10**5, 10**5, 3))
        if draw.random() < 0.3 and array.dtype.name not in ("object", "uint16", "complex64"):
            tensor = torch.from_numpy(np.ascontiguousarray(array)) if array.size < 10**7 else torch.zeros(1)
            return draw.choice(
                (tensor, tensor, tensor.to("meta"), tensor.float().to_sparse() if tensor.ndim else tensor)
            )
        return array

    def make_image(self) -> Any:
        """Returns an image, or what is none."""
        draw = self.draw
        kind = draw.choice(("file", "file", "array", "pillow", "odd"))
        if kind == "file":
            return self.make_file("images")
        if kind == "array":
            return self.make_array((0, 1, 2, 3, 3, 3, 4, 5))
        if kind == "pillow":
            size = draw.choice(((1, 1), (8, 8), (1, 3000), (3000, 1), (0, 5), (64, 48)))
            return Image.new(draw.choice(("RGB", "L", "P", "RGBA", "I", "F", "1", "CMYK", "LAB", "I;16", "La")), size)
        return draw.choice(ODD_VALUES)

    def make_audio(self) -> Any:
        """Returns an audio clip, or what is none."""
        draw = self.draw
        kind = draw.choice(("file", "file", "array", "mapping", "odd"))
        if kind == "file":
            return self.make_file("audio")
        if kind == "odd":
            return draw.choice(ODD_VALUES)
        array = self.make_array((0, 1, 1, 1, 2, 3))
        rate = draw.choice((*ODD_NUMBERS, 8000, 16000, 22050.5, "16000", None))
        return array if kind == "array" else {"array": array, "sampling_rate": rate}

    def make_video(self) -> Any:
        """Returns a video, or what is none."""
        draw = self.draw
        kind = draw.choice(("file", "file", "array", "frames", "odd"))
        if kind == "file":
            return self.make_file("videos")
        if kind == "array":
            return self.make_array((1, 3, 4, 4, 4, 5))
        return [self.make_image() for _ in range(draw.randrange(4))] if kind == "frames" else draw.choice(ODD_VALUES)
