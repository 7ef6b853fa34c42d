"""Videos of any kind: what is read, which frames, and what comes out for rows with and without one."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import AutoProcessor, VideoMAEConfig, VivitConfig
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.vivit.image_processing_vivit import VivitImageProcessor

from plait.configuration import PlaitVideoConfig, PlaitVisionConfig
from plait.modeling import PlaitModel
from plait.processing import PlaitProcessor
from plait.processing.video import FrameSampling

SIDE = 16


def frames(count: int = 8) -> list[Image.Image]:
    """Frame number n is grey of 20 n."""
    return [Image.new("RGB", (SIDE, SIDE), (20 * number,) * 3) for number in range(count)]


def file_of(count: int = 8, rate: int = 4) -> bytes:
    """The same as a file of (nearly) lossless frames."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = {"qscale": "1"}
        for picture in frames(count):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture
def viewer() -> PlaitProcessor:
    scale = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    reader = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, **scale)
    return PlaitProcessor(frame_processor=reader, num_frames=4)


def numbers(batch: Any, row: int = 0, clip: int = 0) -> list[int]:
    """Which frames were read, by their grey."""
    pixels = torch.as_tensor(batch["pixel_values_videos"])[row, clip]
    return (pixels.flatten(1).mean(1) * 255 / 20).round().long().tolist()


def test_names_shapes_and_types(viewer: PlaitProcessor) -> None:
    batch = viewer(videos=[frames(), None, [frames(5), frames(3)]], return_tensors="pt")
    assert batch["pixel_values_videos"].shape == (3, 2, 4, 3, SIDE, SIDE)
    assert batch["pixel_values_videos"].dtype == torch.float32
    assert batch["video_present"].tolist() == [[True, False], [False, False], [True, True]]
    assert "pixel_values_videos_mask" not in batch
    assert not batch["pixel_values_videos"][1].any()
    assert viewer.model_input_names == ["pixel_values_videos", "video_present"]
    nothing = viewer(videos=[None, None])
    assert nothing["pixel_values_videos"].shape == (2, 1, 4, 3, SIDE, SIDE)
    assert not nothing["video_present"].any()


def test_every_form_of_one_video_gives_the_same(viewer: PlaitProcessor, tmp_path: Path) -> None:
    array = np.stack([np.asarray(frame) for frame in frames()])
    path = tmp_path / "clip.mp4"
    path.write_bytes(file_of())
    same = [frames(), array, torch.from_numpy(array).permute(0, 3, 1, 2), list(array)]
    files = [file_of(), path, str(path), {"bytes": file_of(), "path": None}, {"bytes": None, "path": str(path)}]
    expected = viewer(videos=frames())["pixel_values_videos"]
    for clip in (*same, *files):
        for given in (clip, [clip], [[clip]]):
            found = viewer(videos=given)["pixel_values_videos"]
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= (0.02 if any(clip is file for file in files) else 0)
    assert viewer(videos=np.stack([array, array]))["pixel_values_videos"].shape[0] == 2


@pytest.mark.parametrize(
    ("sampling", "read"),
    [
        ({"num_frames": 4}, [1, 3, 5, 7]),
        ({"num_frames": 1}, [4]),
        ({"num_frames": 8}, list(range(8))),
        ({"num_frames": 12}, [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7]),
        ({"fps": 4}, list(range(8))),
        ({"fps": 2}, [0, 2, 4, 6]),
        ({"fps": 1}, [0, 4]),
        ({"fps": 0.1}, [0]),
        ({"fps": 8}, [number // 2 for number in range(16)]),
        ({"fps": 4, "num_frames": 3}, [1, 4, 6]),
        ({"fps": 1, "num_frames": 3}, [0, 4]),
    ],
)
def test_frames_are_sampled_alike_from_a_file_and_from_a_list(
    sampling: dict[str, float], read: list[int], viewer: PlaitProcessor
) -> None:
    """Eight frames, four a second."""
    for given in ({"videos": file_of()}, {"videos": frames(), "video_fps": 4}):
        assert numbers(viewer(**given, videos_kwargs=sampling)) == read


def test_all_frames_are_read_where_nothing_samples_and_shorter_ones_are_masked() -> None:
    scale = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    viewer = PlaitProcessor(image_processor=ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, **scale))
    batch = viewer(videos=[frames(5), None, frames(2)], return_tensors="pt")
    assert batch["pixel_values_videos"].shape[:3] == (3, 1, 5)
    assert batch["pixel_values_videos_mask"].sum(-1).tolist() == [[5], [0], [2]]
    assert numbers(batch)[:5] == [0, 1, 2, 3, 4]


def test_it_survives_saving_beside_an_image_processor(viewer: PlaitProcessor, tmp_path: Path) -> None:
    both = PlaitProcessor(
        image_processor=ViTImageProcessorPil(size={"height": 8, "width": 8}),
        frame_processor=viewer.frame_processor,
        num_frames=3,
        fps=2.0,
    )
    both.save_pretrained(tmp_path)
    for again in (AutoProcessor.from_pretrained(tmp_path), PlaitProcessor.from_pretrained(tmp_path)):
        assert (again.num_frames, again.fps) == (3, 2.0)
        given: dict[str, Any] = {"images": frames(1), "videos": [file_of()]}
        for name, array in both(**given).items():
            assert np.array_equal(again(**given)[name], array)
    from_folder = PlaitProcessor.compose(video=tmp_path)
    assert np.array_equal(
        from_folder(videos=frames(), videos_kwargs={"num_frames": 3})["pixel_values_videos"],
        both(videos=frames(), videos_kwargs={"num_frames": 3})["pixel_values_videos"],
    )
    viewer.save_pretrained(tmp_path / "alone")
    assert numbers(PlaitProcessor.from_pretrained(tmp_path / "alone")(videos=frames())) == [1, 3, 5, 7]


CROP = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


@pytest.mark.parametrize(
    ("reader", "config"),
    [(VideoMAEImageProcessorPil(**CROP), VideoMAEConfig), (VivitImageProcessor(**CROP), VivitConfig)],
    ids=["videomae", "vivit"],
)
def test_families_of_videos_bring_their_own_reader(reader: Any, config: Any, tmp_path: Path) -> None:
    reader.save_pretrained(tmp_path)
    config(num_frames=6, image_size=SIDE).save_pretrained(tmp_path)
    viewer = PlaitProcessor.compose(video=tmp_path)
    assert viewer.num_frames == 6
    found = viewer(videos=frames(6))["pixel_values_videos"][0, 0]
    expected = np.asarray(reader(frames(6), return_tensors="np")["pixel_values"][0])
    assert np.array_equal(found, expected)
    viewer.save_pretrained(tmp_path / "again")
    again = AutoProcessor.from_pretrained(tmp_path / "again")
    assert np.array_equal(again(videos=frames(6))["pixel_values_videos"][0, 0], expected)


def test_a_config_gives_a_default_that_its_tower_reads() -> None:
    image = PlaitVisionConfig(image_size=SIDE, patch_size=8, hidden_size=32, num_hidden_layers=1)
    config = PlaitVideoConfig(image_config=image, num_frames=5)
    viewer = PlaitProcessor.compose(video=config)
    assert viewer.num_frames == 5
    model = PlaitModel.compose(video=config, verbose=False)
    batch = viewer(videos=[[frames(), frames(3)], [None, file_of()]], return_tensors="pt")
    with torch.no_grad():
        output = model(**batch)
    assert output.mask.tolist() == [[1] * 10, [0] * 5 + [1] * 5]


def sound() -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, np.zeros(800), 8000, format="WAV")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([frames(), "nowhere.mp4"], "videos, row 1: there is no file 'nowhere.mp4'"),
        ([b"no video"], "videos, row 0: 8 bytes is not a readable video file"),
        ([file_of()[:300]], "videos, row 0: 300 bytes has no video frames"),
        ([sound()], "videos, row 0: .* has no video frames"),
        ([[]], "videos, row 0: a video has no frames"),
        ([np.zeros((0, 4, 4, 3), np.uint8)], "videos, row 0: a video has no frames"),
        ([], "videos is an empty list"),
        ([5], r"videos, row 0: 5 \(int\) is not a video clip"),
        (5, "is neither a clip nor a list"),
        ([np.full((2, 4, 4, 3), np.nan)], "videos, row 0: .* NaN or infinite"),
        ({"bytes": None, "path": None}, "videos, row 0: .* has neither bytes nor a path"),
    ],
)
def test_what_is_no_video_is_a_clear_error(videos: Any, message: str, viewer: PlaitProcessor) -> None:
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        viewer(videos=videos)


def test_calls_that_do_not_fit_are_a_clear_error(viewer: PlaitProcessor) -> None:
    with pytest.raises(ValueError, match="pass video_fps"):
        viewer(videos=frames(), videos_kwargs={"fps": 2})
    with pytest.raises(ValueError, match="num_frames is 0: pass the number of frames"):
        viewer(videos=frames(), videos_kwargs={"num_frames": 0})
    with pytest.raises(ValueError, match="video_fps was passed without videos"):
        viewer(images=frames(1), video_fps=4)
    with pytest.raises(ValueError, match="videos has 2 rows"):
        viewer(images=frames(1), videos=[frames(), None])
    text = PlaitProcessor(image_processor=None, frame_processor=viewer.frame_processor)
    with pytest.raises(ValueError, match="no image_processor"):
        text(images=frames(1))


def test_every_frame_is_chosen_once_where_there_are_as_many() -> None:
    for count in range(1, 30):
        assert FrameSampling(num_frames=count).select_frames(None, count) == list(range(count))
        for wanted in (1, 3, 7):
            chosen = FrameSampling(num_frames=wanted).select_frames(None, count)
            assert len(chosen) == wanted
            assert chosen == sorted(chosen)
            assert 0 <= chosen[0] <= chosen[-1] < count


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from plait.processing.video import FrameSampling, decode_video\n"
        "decode_video(b'', FrameSampling())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'plait[video]'" in run.stderr


@pytest.mark.parametrize(
    ("wanted", "count", "expected"),
    [(1, 5, [2]), (2, 5, [1, 3]), (3, 6, [1, 3, 5]), (4, 4, [0, 1, 2, 3]), (4, 2, [0, 0, 1, 1])],
)
def test_a_frame_is_the_middle_of_its_part(wanted: int, count: int, expected: list[int]) -> None:
    assert FrameSampling(num_frames=wanted).select_frames(None, count) == expected


@pytest.mark.parametrize("begin", [0.0, 7.5])
def test_times_count_from_the_first_frame(begin: float) -> None:
    """A clip cut out of a film begins at some second of it."""
    times = [begin + number / 10 for number in range(20)]
    assert FrameSampling(fps=2.0).select_frames(times, 20) == [0, 5, 10, 15]
    assert FrameSampling(fps=2.0, num_frames=2).select_frames(times, 20) == [5, 15]
