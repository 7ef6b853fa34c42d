"""The times of the frames that are sampled from a video."""

from collections.abc import Mapping
from io import BytesIO
from os import PathLike
from typing import Any

import numpy as np

from ...processing import PlaitProcessor
from ...processing.images import read_file_content
from ...processing.video import FrameSampling, decode_frames


def find_frame_times(processor: PlaitProcessor, video: Any, count: int) -> np.ndarray:
    """Returns the times, in seconds, of a video's `count` sampled frames: (count,). Bare frames have no times: their
    numbers in the video."""
    sampling = FrameSampling(processor.num_frames, processor.fps)
    if isinstance(video, (str, PathLike, bytes, Mapping)):
        import av

        with av.open(BytesIO(read_file_content(video))) as container:
            times = [frame.time for frame in decode_frames(container)]
        known = [float(number if time is None else time) for number, time in enumerate(times)]
        places = sampling.select_frames(known, len(known))
    else:
        known = [float(number) for number in range(len(video))]
        places = sampling.select_frames(None, len(known))
    return np.asarray([known[place] for place in places][:count], dtype=np.float32)
