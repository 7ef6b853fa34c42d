"""Reads sampled frames from videos of any format, and turns them into `pixel_values_videos`."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor

from .errors import ROW_ERRORS, describe_error, name_error
from .images import count_channels, describe, is_image, process_image, read_file_content, read_image
from .limits import check_batch, check_ceiling, check_number, check_numbers

MAX_POSITIONS = 10_000_000  # a day at 100 frames per second
# a file that names others, such as a playlist, would be read from wherever it says
READ_OPTIONS = {"protocol_whitelist": "none"}
VIDEO_INSTALL_HINT = "install it with: pip install 'plait[video]'"


class FrameSampling(NamedTuple):
    """The rule by which frames of a video are sampled; without both fields, all frames are read.

    num_frames: number of frames, from the middles of equal intervals (of a shorter video some frames are repeated);
    fps: a frame every 1 / fps seconds from the start on, and at most `num_frames` if both are set.
    """

    num_frames: int | None = None
    fps: float | None = None

    def check(self) -> None:
        """Raises ValueError for a field that is no number, or outside `LIMITS`."""
        check_numbers(self._asdict())

    def select_frames(self, times: Sequence[float] | None, count: int) -> list[int]:
        """Returns the indices of the frames to read, among `count` frames at `times` (seconds; None: not known).

        Raises ValueError if `fps` is set and the times are not known.
        """
        places = list(range(count))
        if self.fps is not None:
            if times is None:
                raise ValueError(
                    "fps samples by time, but the frames have no times: pass video_fps (frames per second)"
                )
            ends = np.asarray(times) - times[0]
            length = ends[-1] + (ends[-1] / (count - 1) if count > 1 else 0)
            number = length * self.fps
            if not number <= MAX_POSITIONS:
                raise ValueError(f"fps is {self.fps}, and the video has {length:g} s: {number:g} frames are too many")
            wanted = np.arange(max(1, int(np.ceil(number - 1e-6)))) / self.fps
            places = (np.searchsorted(ends, wanted + 1e-6, side="right") - 1).clip(0, count - 1).tolist()
        if self.num_frames is None or (self.fps is not None and len(places) <= self.num_frames):
            return places
        steps = (np.arange(self.num_frames) + 0.5) * len(places) / self.num_frames
        return [places[int(step)] for step in steps]


def collect_video_rows(videos: Any) -> list[list[Any]]:
    """Returns one list of video clips for every row; a clip may be None.

    A single clip is one row. In a list every entry is a row: a clip, None (no clip) or a list of clips. A clip is a
    path, the bytes of a file, `datasets`' {"bytes", "path"}, an array of four dimensions, or a list of decoded frames
    (Pillow images or arrays).

    Raises:
        TypeError: a value that is not a clip; the message names its row.
        ValueError: an empty list, or a clip without frames.
    """
    if is_video_clip(videos):
        return [[videos]]
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim == 5:
        return [[clip] for clip in videos]
    if not isinstance(videos, Sequence) or isinstance(videos, (str, bytes)):
        raise TypeError(
            f"videos: {describe(videos)} is neither a clip nor a list: pass a clip, or a list with a clip, None or a "
            "list of clips for every row"
        )
    if not videos:
        raise ValueError("videos is an empty list: pass one entry per row (None for a row without a video)")
    return [collect_row_videos(row, entry) for row, entry in enumerate(videos)]


def collect_row_videos(row: int, entry: Any) -> list[Any]:
    """Returns the clips of one row; raises TypeError for a value that is not a clip."""
    if entry is None:
        return []
    if isinstance(entry, Sequence) and not isinstance(entry, (str, bytes)) and not entry:
        raise ValueError(f"videos, row {row}: a video has no frames: leave it out, or pass None")
    clips = [entry] if is_video_clip(entry) or not isinstance(entry, Sequence) else list(entry)
    for clip in clips:
        if clip is not None and not is_video_clip(clip):
            raise TypeError(
                f"videos, row {row}: {describe(clip)} is not a video clip; pass a path, the bytes of a file, an array "
                "(frames, height, width, channels), a list of frames, None, or a list of these"
            )
    return clips


def is_video_clip(value: Any) -> bool:
    """Returns whether a value is a single video, decoded or not."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim == 4
    if isinstance(value, (str, PathLike, bytes, Mapping)):
        return True
    return isinstance(value, Sequence) and bool(value) and all(map(is_frame, value))


def is_frame(value: Any) -> bool:
    """Returns whether a value is a decoded image."""
    return isinstance(value, (Image.Image, np.ndarray, torch.Tensor)) and is_image(value)


def read_frames(clip: Any, sampling: FrameSampling, video_fps: float | None) -> list[Any]:
    """Returns the sampled frames of one clip, as images that `read_image` takes.

    Raises:
        FileNotFoundError, ImportError, ValueError: no file, no package that decodes it, or no frames in it.
    """
    if isinstance(clip, (str, PathLike, bytes, Mapping)):
        return decode_video(read_file_content(clip), sampling, describe(clip))
    count = len(clip)
    if not count:
        raise ValueError("a video has no frames: leave it out, or pass None")
    times = None if video_fps is None else [number / video_fps for number in range(count)]
    numbers = sampling.select_frames(times, count)
    kept = {number: clip[number] for number in numbers}
    return [kept[number] for number in numbers]


def decode_video(content: bytes, sampling: FrameSampling, name: str | None = None) -> list[Image.Image]:
    """Decodes the sampled frames of a video file's bytes, which errors call `name`, rotated upright."""
    try:
        import av
        import av.error
    except ImportError as error:
        raise ImportError(f"video files are read with PyAV; {VIDEO_INSTALL_HINT}") from error
    try:
        with av.open(BytesIO(content), options=READ_OPTIONS) as container:
            times = list_frame_times(container, name or describe(content))
        if not times:
            raise ValueError(f"{name or describe(content)} has no video frames: pass a file with a video stream")
        known = [float(number if time is None else time) for number, time in enumerate(times)]
        wanted = sampling.select_frames(known, len(times))
        with av.open(BytesIO(content), options=READ_OPTIONS) as container:
            check_frames(container, wanted, name or describe(content))
            images = {
                number: rotate_upright(frame)
                for number, frame in enumerate(decode_frames(container))
                if number in frozenset(wanted)
            }
    except (av.error.FFmpegError, MemoryError, OverflowError, UnicodeError, RuntimeError, TypeError) as error:
        problem = describe_error(error)
        raise ValueError(f"{name or describe(content)} is not a readable video file: {problem}") from error
    if not images.keys() >= set(wanted):
        raise ValueError(f"{name or describe(content)} gives fewer frames when it is read again: it is damaged")
    return [images[number] for number in wanted]


def list_frame_times(container: Any, name: str) -> list[float | None]:
    """Returns the times of all frames, in seconds; None for one without a time."""
    times = []
    for stream in container.streams.video[:1]:  # before the first frame is allocated
        if stream.codec_context is None:
            raise ValueError(f"{name} is not a readable video file: there is no decoder for its video")
        check_ceiling("image_pixels", stream.width * stream.height, f"{name}: a frame")
    for frame in decode_frames(container):
        check_ceiling("image_pixels", frame.width * frame.height, f"{name}: a frame")
        times.append(frame.time)
        check_ceiling("video_frames", len(times), name)
    return times


def check_frames(container: Any, wanted: Sequence[int], name: str) -> None:
    """Raises ValueError for frames that would not fit into memory."""
    stream, count = container.streams.video[0], len(set(wanted))
    check_ceiling("video_pixels", count * stream.width * stream.height, f"{name}: {count} frames")


def decode_frames(container: Any) -> Any:
    """Returns the frames of the first video stream; none if the file has only audio."""
    return container.decode(video=0) if container.streams.video else []


def rotate_upright(frame: Any) -> Image.Image:
    """Returns a decoded frame rotated as it is displayed: phones store the rotation as metadata."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def process_videos(
    image_processor: BaseImageProcessor,
    rows: list[list[Any]],
    sampling: FrameSampling,
    video_fps: float | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Runs the image processor on every sampled frame.

    Returns `pixel_values_videos (batch, clips, frames, channels, height, width)`, with zeros for absent videos, and
    `video_present (batch, clips)`; if videos have different numbers of frames, also `pixel_values_videos_mask (batch,
    clips, frames)`, True for real frames.

    Raises:
        OSError, ImportError, ValueError: a video that cannot be read or processed, and the message names its row;
            frames that have different sizes once processed.
    """
    sampling.check()
    check_number("video_fps", video_fps)
    arrays = {
        (row, place): process_row_video(image_processor, row, clip, sampling, video_fps, options)
        for row, clips in enumerate(rows)
        for place, clip in enumerate(clips)
        if clip is not None
    }
    present = np.zeros((len(rows), max(1, *map(len, rows))), dtype=bool)
    if not arrays:
        blank = Image.new("L" if count_channels(image_processor) == 1 else "RGB", (64, 64))
        shape = (sampling.num_frames or 1, *process_image(image_processor, blank, "videos", options).shape)
        return {"pixel_values_videos": np.zeros((*present.shape, *shape), np.float32), "video_present": present}
    sizes = {array.shape[1:] for array in arrays.values()}
    if len(sizes) > 1:
        raise ValueError(
            f"videos come out as {sorted(sizes)} (channels, height, width); resize all to one size: "
            'videos_kwargs={"size": {"height": ..., "width": ...}}'
        )
    lengths = {place: len(array) for place, array in arrays.items()}
    longest = max(lengths.values())
    size = sizes.pop()
    check_batch((*present.shape, longest, *size), "videos")
    pixels = np.zeros((*present.shape, longest, *size), dtype=np.float32)
    mask = np.zeros((*present.shape, longest), dtype=bool)
    for place, array in arrays.items():
        pixels[place][: len(array)], mask[place][: len(array)], present[place] = array, True, True
    values = {"pixel_values_videos": pixels, "video_present": present}
    return values | ({"pixel_values_videos_mask": mask} if min(lengths.values()) < longest else {})


def process_row_video(
    image_processor: BaseImageProcessor,
    row: int,
    clip: Any,
    sampling: FrameSampling,
    video_fps: float | None,
    options: dict[str, Any],
) -> np.ndarray:
    """Reads and processes one video: (frames, channels, height, width); every error names the row."""
    where = f"videos, row {row}"
    try:
        frames = read_frames(clip, sampling, video_fps)
        distinct = {id(frame): frame for frame in frames}  # of a short video, frames are repeated
        images = {key: read_image(frame, count_channels(image_processor)) for key, frame in distinct.items()}
    except MemoryError as error:
        raise name_error(error, where, f"{describe(clip)}: {describe_error(error)}") from error
    except ROW_ERRORS as error:
        raise name_error(error, where) from error
    arrays = {key: process_image(image_processor, image, where, options) for key, image in images.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1:
        raise ValueError(f"{where}: its frames come out at different sizes: resize all to one size")
    check_batch((len(frames), *shapes.pop()), where)
    return np.stack([arrays[id(frame)] for frame in frames])
