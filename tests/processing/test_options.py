"""Options of a processor's call: flat, by part or common; given twice; and parts that a processor lacks."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast, ProcessorMixin, Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait.processing import PlaitProcessor
from plait.processing.parts import CLIPS_METHOD, PROCESSOR_PARTS

Make = Callable[..., Image.Image]
RATE = 100
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
)
# an option of each part in every form; what it changes: (input, a test of its value)
OPTIONS: dict[str, tuple[dict[str, Any], str, Callable[[torch.Tensor], bool]]] = {
    "text_kwargs": ({"padding": "max_length", "max_length": 7}, "input_ids", lambda ids: ids.shape[-1] == 7),
    "images_kwargs": ({"rescale_factor": -1.0, "do_normalize": False}, "pixel_values", lambda x: x.min() < -100),
    "audio_kwargs": ({"pad_to_multiple_of": 8}, "input_values", lambda x: x.shape[-1] == 104),
    "videos_kwargs": ({"num_frames": 3}, "pixel_values_videos", lambda x: x.shape[2] == 3),
}


@pytest.fixture
def every(bert_tokenizer: PreTrainedTokenizerFast) -> PlaitProcessor:
    """A processor with every part."""
    small = ViTImageProcessorPil(size={"height": 4, "width": 4})
    audio = Wav2Vec2FeatureExtractor(sampling_rate=RATE, padding=True)
    pixels = ViTImageProcessorPil(size={"height": 8, "width": 8})
    decoder = copy.deepcopy(bert_tokenizer)
    return PlaitProcessor(
        pixels, bert_tokenizer, TEMPLATE, audio, decoder, frame_processor=small, target_image_processor=small
    )


@pytest.fixture
def row(picture: Make) -> dict[str, Any]:
    """The inputs of one row, for every part."""
    clip = {"array": np.linspace(-1, 1, 100, dtype=np.float32), "sampling_rate": RATE}
    frames = np.stack([np.asarray(picture(seed)) for seed in range(5)])
    return {"text": "the cat", "images": picture(), "audio": clip, "videos": frames}


# a flat option that the tokenizer knows too is the tokenizer's alone
FORMS = [(group, form) for group in OPTIONS for form in ("flat", "grouped", "common")]
FORMS.remove(("audio_kwargs", "flat"))


@pytest.mark.parametrize(("group", "form"), FORMS)
def test_an_option_reaches_its_part_in_every_form(
    every: PlaitProcessor, row: dict[str, Any], group: str, form: str
) -> None:
    options, name, holds = OPTIONS[group]
    given = {"flat": options, "grouped": {group: options}, "common": {"common_kwargs": options}}[form]
    assert not holds(every(**row, return_tensors="pt")[name])
    assert holds(every(**row, return_tensors="pt", **given)[name])
    assert not holds(every(**row, return_tensors="pt")[name])  # nothing of a call outlives it


@pytest.mark.parametrize("group", OPTIONS)
def test_an_option_given_twice_is_an_error(every: PlaitProcessor, row: dict[str, Any], group: str) -> None:
    for name, value in OPTIONS[group][0].items():
        if group == "audio_kwargs":
            continue  # its flat form belongs to the tokenizer
        with pytest.raises(ValueError, match=f"the option '{name}' is given twice, flat and in {group}"):
            every(**row, **{group: {name: value}, name: value})
    for place, name, value in (
        ("audio_kwargs", "sampling_rate", RATE),
        ("text_kwargs", "return_tensors", "pt"),
        ("text_kwargs", "text_pair", "dog"),
        ("videos_kwargs", "video_fps", 2.0),
    ):
        with pytest.raises(ValueError, match=f"'{name}' is given twice"):
            every(**row, **{name: value, place: {name: value}})


def test_common_options_give_way(every: PlaitProcessor, row: dict[str, Any]) -> None:
    common = {"padding": "max_length", "max_length": 8, "return_tensors": "pt"}
    assert every(**row, common_kwargs=common)["input_ids"].shape == (1, 8)
    assert every(**row, common_kwargs=common, max_length=6)["input_ids"].shape == (1, 6)
    assert every(**row, common_kwargs=common, text_kwargs={"max_length": 5})["input_ids"].shape == (1, 5)
    assert isinstance(every(**row, common_kwargs=common, return_tensors="np")["input_ids"], np.ndarray)


def test_arguments_of_the_call_may_stand_with_their_part(every: PlaitProcessor, row: dict[str, Any]) -> None:
    samples = row["audio"]["array"]
    expected = every(**row, text_pair="dog", return_tensors="pt")
    found = every(
        **row | {"audio": samples},
        text_kwargs={"text_pair": "dog", "return_tensors": "pt"},
        audio_kwargs={"sampling_rate": RATE},
    )
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_a_flat_option_reaches_images_and_frames_alike(every: PlaitProcessor, row: dict[str, Any]) -> None:
    found = every(**row, return_tensors="pt", size={"height": 6, "width": 6})
    assert found["pixel_values"].shape[-2:] == found["pixel_values_videos"].shape[-2:] == (6, 6)
    every.num_frames = 2
    assert every(**row)["pixel_values_videos"].shape[2] == 2
    assert every(**row, do_sample_frames=False)["pixel_values_videos"].shape[2] == 5
    assert every(**row, fps=1, video_fps=2)["pixel_values_videos"].shape[2] == 3


def test_unknown_options_are_named_for_every_part(every: PlaitProcessor, row: dict[str, Any]) -> None:
    for group in (*OPTIONS, "common_kwargs"):
        with pytest.raises(TypeError, match=f"{group} has no option 'paddings'"):
            every(**row, **{group: {"paddings": True}})
    with pytest.raises(TypeError, match="has no option 'num_frame'; did you mean 'num_frames'"):
        every(**row, num_frame=3)
    with pytest.raises(TypeError, match="has no option 'num_frames'"):
        PlaitProcessor(tokenizer=every.tokenizer)(text="the", num_frames=3)
    alone = PlaitProcessor(feature_extractor=every.feature_extractor)
    assert alone(audio=row["audio"], pad_to_multiple_of=64)["input_values"].shape[-1] == 128


@pytest.mark.parametrize("name", PROCESSOR_PARTS)
def test_a_part_that_is_not_there_is_no_attribute(every: PlaitProcessor, name: str, tmp_path: Path) -> None:
    parts = {part: getattr(every, part) for part in PROCESSOR_PARTS if part != name}
    processor = PlaitProcessor(**parts)
    processor.save_pretrained(tmp_path)
    copies = (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor)), PlaitProcessor.from_pretrained(tmp_path))
    for each in (processor, *copies):
        assert not hasattr(each, name) and all(hasattr(each, part) for part in parts)
        assert name not in each.get_attributes() and each.find_part(name) is None
        with pytest.raises(AttributeError, match=f"has no {name}: compose it with one"):
            getattr(each, name)
        assert each.to_dict() == processor.to_dict()
    with pytest.raises(AttributeError, match="no attribute 'tokeniser'"):
        _ = processor.tokeniser  # pyright: ignore[reportAttributeAccessIssue]


def test_ready_parts_replace_saved_ones(every: PlaitProcessor, tmp_path: Path) -> None:
    every.save_pretrained(tmp_path)
    other = ViTImageProcessorPil(size={"height": 5, "width": 5})
    loaded = PlaitProcessor.from_pretrained(tmp_path, image_processor=other, frame_processor=other)
    assert loaded.image_processor is loaded.frame_processor is other
    assert loaded.tokenizer.get_vocab() == every.tokenizer.get_vocab()


def chat(text: str, *parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]


def test_chats_take_the_options_of_the_processor(every: PlaitProcessor, picture: Make) -> None:
    """Options of the call, and images within the conversation."""
    messages = chat("the cat", {"type": "image", "image": picture()})
    options = {"padding": "max_length", "max_length": 7, "images_kwargs": {"size": {"height": 6, "width": 6}}}
    found = every.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=dict(options)
    )
    expected = every(images=picture(), text="the cat ", return_tensors="pt", **options)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    flat = every.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **options)
    assert all(torch.equal(flat[name], expected[name]) for name in expected)
    assert every.apply_chat_template(messages) == "the cat "


def test_chats_keep_each_conversations_images_videos_and_clips(
    every: PlaitProcessor, row: dict[str, Any], picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clips of the first conversation are not one of each."""
    clip, video = {"type": "audio", "audio": row["audio"]}, {"type": "video", "video": row["videos"]}
    monkeypatch.setattr("transformers.processing_utils.load_audio", lambda given, **_: given["array"])
    chats = [chat("the cat", clip, clip), chat("the", video, {"type": "image", "image": picture()}), chat("dog", clip)]
    if not hasattr(ProcessorMixin, CLIPS_METHOD):
        with pytest.raises(ValueError, match="mixes the clips of several conversations"):
            every.apply_chat_template(chats, tokenize=True, return_dict=True)
        return
    found = every.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"num_frames": 2}
    )
    assert found["audio_present"].tolist() == [[True, True], [False, False], [True, False]]
    assert found["image_present"].tolist() == [[False], [True], [False]]
    assert found["video_present"].tolist() == [[False], [True], [False]]
    assert found["pixel_values_videos"].shape[2] == 2
    with pytest.raises(ValueError, match="2 audio blocks in the messages, but 1 clips"):
        every.apply_chat_template([chat("the", clip, {"type": "audio"})], tokenize=True)


def test_threads_with_options_of_every_part_do_not_meet(every: PlaitProcessor, row: dict[str, Any]) -> None:
    settings: list[dict[str, Any]] = [{}, *({group: options} for group, (options, _, _) in OPTIONS.items())]
    settings += [
        {"size": {"height": size, "width": size}, "num_frames": size, "padding_side": "left"} for size in (5, 6)
    ]
    expected = [every(**row, return_tensors="pt", **given) for given in settings]
    with ThreadPoolExecutor(len(settings)) as pool:
        jobs = [pool.submit(every, **row, return_tensors="pt", **given) for given in settings * 6]
        for number, job in enumerate(jobs):
            found, alone = job.result(), expected[number % len(settings)]
            assert found.keys() == alone.keys() and all(torch.equal(found[name], alone[name]) for name in alone)
