"""What a call sets stays in the call; the defaults that a part was loaded with hold unless a call overrides them."""

import copy
import json
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Wav2Vec2FeatureExtractor

from plait.processing import PlaitProcessor
from plait.processing.calls import call_tokenizer
from plait.processing.options import TEXT_OPTIONS
from plait.training.data.tokenizer import train_tokenizer

TEXTS = ["the cat is red", "dog", "where is the blue dog", "the"]
# two values of every option of a tokenizer's call
SETTINGS: list[dict[str, Any]] = [
    {"padding": "longest"},
    {"padding": "max_length", "max_length": 7},
    {"padding": False},
    {"padding": "max_length", "max_length": 8, "padding_side": "left"},
    {"truncation": True, "max_length": 3},
    {"truncation": False},
    {"padding": True, "pad_to_multiple_of": 8},
    {"add_special_tokens": False},
    {"return_token_type_ids": False},
    {"return_special_tokens_mask": True},
    {"return_offsets_mapping": True, "max_length": 4, "truncation": "longest_first"},
]
Outputs = dict[str, Any]


@pytest.fixture
def folder(processor: PlaitProcessor, tmp_path: Path) -> Path:
    processor.save_pretrained(tmp_path)
    return tmp_path


def run_together(calls: list[Callable[[], Outputs]], times: int = 25) -> list[list[Outputs]]:
    """The outputs of every call, all of them made `times` times by threads of their own at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        jobs = [pool.submit(lambda call=call: [call() for _ in range(times)]) for call in calls]
        return [job.result() for job in jobs]


def test_threads_with_different_settings_do_not_meet(processor: PlaitProcessor) -> None:
    calls = [lambda given=given: dict(processor(text=TEXTS, **given)) for given in SETTINGS]
    assert {name for given in SETTINGS for name in given} >= TEXT_OPTIONS - {
        "verbose",
        "return_text_replacement_offsets",
        "sanitize_control_tokens",
    }
    expected = [call() for call in calls]
    for found, alone in zip(run_together(calls), expected, strict=True):
        assert all(each == alone for each in found)


def test_threads_with_texts_targets_and_pairs_do_not_meet(
    processor: PlaitProcessor, gpt_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Two processors with one tokenizer, targets of another limit, pairs, and a plain call of the tokenizer by us."""
    processor.decoder_tokenizer = gpt_tokenizer
    other = PlaitProcessor(tokenizer=processor.tokenizer)
    calls: list[Callable[[], Outputs]] = [
        lambda: dict(processor(text=TEXTS, text_target=TEXTS, max_target_length=3)),
        lambda: dict(processor(text=TEXTS, text_pair=TEXTS, max_length=10, truncation="only_second")),
        lambda: dict(other(text=TEXTS, padding="max_length", max_length=6, truncation=True)),
        lambda: dict(call_tokenizer(processor.tokenizer, TEXTS)),
    ]
    expected = [call() for call in calls]
    for found, alone in zip(run_together(calls), expected, strict=True):
        assert all(each == alone for each in found)


@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_a_call_leaves_the_tokenizer_as_it_was(
    processor: PlaitProcessor, folder: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    before = processor.tokenizer.backend_tokenizer.to_str()
    sides = processor.tokenizer.padding_side, processor.tokenizer.truncation_side
    processor(text=TEXTS, **given)
    assert processor.tokenizer.backend_tokenizer.to_str() == before
    assert (processor.tokenizer.padding_side, processor.tokenizer.truncation_side) == sides
    processor.tokenizer.save_pretrained(tmp_path / "after")
    assert (tmp_path / "after" / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()


def test_settings_that_the_tokenizer_had_before_are_kept(processor: PlaitProcessor) -> None:
    backend = processor.tokenizer.backend_tokenizer
    backend.enable_padding(length=5, pad_id=0, pad_token="[PAD]")
    backend.enable_truncation(4)
    kept = backend.padding, backend.truncation
    processor(text=TEXTS)
    assert (backend.padding, backend.truncation) == kept


def test_a_processor_with_locks_is_copied_and_pickled(processor: PlaitProcessor) -> None:
    expected = dict(processor(text=TEXTS))
    for other in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert dict(other(text=TEXTS)) == expected


def hold_and_fork(processor: PlaitProcessor) -> bool:
    """Whether a process that is forked while a thread holds the tokenizer's lock can still call it."""
    from plait.processing.calls import lock_tokenizer

    context = multiprocessing.get_context("fork")
    with lock_tokenizer(processor.tokenizer):
        child = context.Process(target=lambda: processor(text=TEXTS))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(child.start).result()
        child.join(20)
        alive = child.is_alive()
        child.kill()
        return not alive


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_waits_for_no_lock(processor: PlaitProcessor) -> None:
    assert hold_and_fork(processor)


@pytest.mark.parametrize(
    ("defaults", "length"),
    [
        ({"padding": "max_length", "max_length": 7}, 7),
        ({"padding": "max_length", "max_length": 3, "truncation": True}, 3),
        ({"pad_to_multiple_of": 8}, 8),
        ({"truncation": True, "max_length": 4}, 4),
    ],
)
def test_defaults_of_the_tokenizers_call_are_kept(
    folder: Path, defaults: dict[str, Any], length: int, tmp_path: Path
) -> None:
    """Given when the tokenizer or the processor is loaded, and saved with it; a call may override them."""
    loaded = PlaitProcessor.from_pretrained(folder, **defaults)
    composed = PlaitProcessor.compose(text=AutoTokenizer.from_pretrained(folder, **defaults))
    loaded.save_pretrained(tmp_path / "again")
    for each in (loaded, composed, PlaitProcessor.from_pretrained(tmp_path / "again")):
        found = each(text=["the cat is", "dog"], return_tensors="pt")
        assert found["input_ids"].shape == (2, length)
        assert each(text=["the cat is", "dog"], padding="max_length", max_length=8)["input_ids"][1][5:] == [0] * 3
    plain = PlaitProcessor.from_pretrained(folder)
    assert plain(text=["the cat is", "dog"], return_tensors="pt")["input_ids"].shape == (2, 5)


def test_a_maximum_alone_is_no_default(folder: Path) -> None:
    """Files of many tokenizers hold the length of their last training."""
    processor = PlaitProcessor.from_pretrained(folder, max_length=3)
    assert len(processor(text="the cat is red")["input_ids"][0]) == 6


def test_targets_follow_the_defaults_of_their_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, truncation=True, max_length=4)
    processor = PlaitProcessor(decoder_tokenizer=tokenizer)
    assert processor(text_target="the cat is red")["labels"] == [[2, 6, 7, 3]]
    assert len(processor(text_target="the cat is red", max_target_length=8)["labels"][0]) == 6


def test_defaults_of_the_image_processor_and_feature_extractor_are_kept(folder: Path, tmp_path: Path) -> None:
    processor = PlaitProcessor.from_pretrained(folder, do_rescale=True, rescale_factor=-1.0, do_normalize=False)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert processor(images=white)["pixel_values"].max() == -255
    clip = {"array": np.ones(90, np.float32), "sampling_rate": 100}
    defaults: dict[str, Any] = {"padding": "max_length", "max_length": 120, "truncation": True}
    Wav2Vec2FeatureExtractor(sampling_rate=100, **defaults).save_pretrained(tmp_path / "sound")
    heard = PlaitProcessor.from_pretrained(tmp_path / "sound")
    heard.save_pretrained(tmp_path / "again")
    for each in (heard, PlaitProcessor.from_pretrained(tmp_path / "again")):
        assert each(audio=clip)["input_values"].shape == (1, 1, 120)
        assert each(audio=clip, padding=False)["input_values"].shape == (1, 1, 90)


def test_a_panic_of_the_tokenizers_library_is_an_error_of_its_call() -> None:
    """pyo3 makes it a BaseException, which no `except Exception` catches."""
    tokenizer = train_tokenizer(["a red cat"], 8, vocab_size=300, min_frequency=1)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["post_processor"]["special_tokens"].popitem()
    damaged = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), pad_token="[PAD]")
    with pytest.raises(ValueError, match="no entry found for key; check"):
        PlaitProcessor(tokenizer=damaged)(text="a red cat")
