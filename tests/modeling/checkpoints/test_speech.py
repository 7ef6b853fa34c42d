"""Whisper's `generate`: language, task and timestamps, token for token as transformers writes them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from plait import PlaitForConditionalGeneration

from .encoder_decoders import save, sources_of, whisper

LANGUAGES = {"<|en|>": 5, "<|de|>": 6, "<|fr|>": 7}
TASKS = {"transcribe": 10, "translate": 11}
# as the published generation configs of multilingual checkpoints; tokens from 41 are timestamps
MANY = {"lang_to_id": LANGUAGES, "task_to_id": TASKS, "is_multilingual": True, "no_timestamps_token_id": 40}
MANY |= {"return_timestamps": False, "max_initial_timestamp_index": 5, "suppress_tokens": [20, 21]}
OLD = {**MANY, "forced_decoder_ids": [[1, None], [2, 10]]}
ENGLISH = {"is_multilingual": False, "no_timestamps_token_id": 40, "forced_decoder_ids": [[1, 40]]}
BASE = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "begin_suppress_tokens": [30]}

Load = Callable[[dict[str, Any]], tuple[Any, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(whisper(), tmp_path_factory.mktemp("whisper")).folder


@pytest.fixture(scope="module")
def models(folder: Path) -> tuple[Any, Any]:
    """Ours and theirs of one folder."""
    ours = PlaitForConditionalGeneration.from_pretrained(folder).eval()
    return ours, hf.WhisperForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture
def load(models: tuple[Any, Any]) -> Load:
    """Both with this generation config."""

    def pair(settings: dict[str, Any]) -> tuple[Any, Any]:
        for model in models:
            model.generation_config = hf.GenerationConfig(**(BASE | settings))
        return models

    return pair


def prefix_of(theirs: Any, settings: dict[str, Any], options: dict[str, Any]) -> list[list[int]]:
    """What transformers' own class puts first."""
    config = hf.GenerationConfig(**({"return_timestamps": False} | BASE | settings | options))
    tokens = theirs._retrieve_init_tokens(sources_of("whisper")["input_features"], 3, config, theirs.config, 24, {})
    return tokens.tolist()


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"no_timestamps_token_id": 40, "return_timestamps": False}, {}),
    (ENGLISH, {}),
    (MANY, {}),
    (OLD, {}),
    (MANY, {"language": "de"}),
    (MANY, {"language": "German"}),
    (MANY, {"language": "<|fr|>", "task": "translate"}),
    (MANY, {"language": ["de", "english", "fr"]}),
    (MANY, {"task": "translate"}),
    (OLD, {"language": "fr"}),
    (OLD, {"task": "translate"}),
    ({**MANY, "language": "fr", "task": "translate"}, {}),
    ({**MANY, "language": "fr"}, {"language": "de"}),
    (MANY, {"language": "de", "return_timestamps": True}),
    (OLD, {"return_timestamps": True}),
]


@pytest.mark.parametrize(("settings", "options", "beams"), [*((*case, 1) for case in CASES), (*CASES[7], 2)])
def test_the_text_is_whispers_own(load: Load, settings: dict[str, Any], options: dict[str, Any], beams: int) -> None:
    ours, theirs = load(settings)
    prefix = prefix_of(theirs, settings, options)
    tokens = ours.generate(**sources_of("whisper"), **options, max_new_tokens=6, num_beams=beams)
    assert tokens[:, : len(prefix[0])].tolist() == prefix
    processors = hf.LogitsProcessorList()
    if options.get("return_timestamps"):
        own = hf.WhisperTimeStampLogitsProcessor(theirs.generation_config, begin_index=len(prefix[0]))
        processors = hf.LogitsProcessorList([own])
        assert (tokens[:, len(prefix[0])] > 40).all()  # a text with timestamps begins with one
    expected = hf.GenerationMixin.generate(
        theirs,
        **sources_of("whisper"),
        decoder_input_ids=torch.tensor(prefix),
        logits_processor=processors,
        max_new_tokens=6,
        num_beams=beams,
    )
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (MANY, {"language": "klingon"}, "language 'klingon' is none of this model's: choose one of en, de, fr"),
        (MANY, {"language": "es"}, "language 'es' is none of this model's"),
        (MANY, {"language": ["de", "fr"]}, "2 languages for 3 rows"),
        (MANY, {"task": "sing"}, "task 'sing' is none of this model's: choose one of transcribe, translate"),
        (ENGLISH, {"language": "de"}, "transcribes one language only"),
        ({}, {"task": "translate"}, "transcribes one language only"),
        (MANY, {"language": "de", "decoder_input_ids": torch.ones(3, 2).long()}, "each begin the text"),
        (MANY, {"return_timestamps": "word"}, "timestamps of segments"),
        ({}, {"return_timestamps": True}, "a checkpoint that generates them"),
    ],
)
def test_what_cannot_be_is_an_error(
    load: Load, settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    ours, _ = load(settings)
    with pytest.raises(ValueError, match=message):
        ours.generate(**sources_of("whisper"), **options, max_new_tokens=4)


def test_a_clip_beyond_the_window_is_refused_by_forward(load: Load) -> None:
    """Training never cuts a clip in silence; generate reads it in windows (test_long_audio.py)."""
    ours, _ = load(MANY)
    with pytest.raises(ValueError, match=r"a clip has 25 frames, but the audio tower reads 1 .. 24"):
        ours(input_features=torch.randn(1, 8, 25), labels=torch.tensor([[1, 2]]))
    assert len(ours.generate(input_features=torch.randn(1, 8, 25), max_new_tokens=4)) == 1


def test_a_given_generation_config_says_the_language(load: Load) -> None:
    ours, _ = load(MANY)
    asked = ours.generate(**sources_of("whisper"), language="fr", max_new_tokens=4)
    given = hf.GenerationConfig(language="fr", max_new_tokens=4)
    assert torch.equal(ours.generate(**sources_of("whisper"), generation_config=given), asked)


def test_a_published_generation_config_is_kept(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "theirs")
    (copy / "generation_config.json").write_text(json.dumps(BASE | OLD))
    model: Any = PlaitForConditionalGeneration.from_pretrained(copy).eval()
    tokens = model.generate(**sources_of("whisper"), language="de", task="translate", max_new_tokens=4)
    assert (tokens[:, :4] == torch.tensor([1, 6, 11, 40])).all()
    model.save_pretrained(tmp_path / "ours")
    again: Any = PlaitForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    for options in ({}, {"language": "de", "task": "translate"}):
        expected = model.generate(**sources_of("whisper"), **options, max_new_tokens=4)
        assert torch.equal(again.generate(**sources_of("whisper"), **options, max_new_tokens=4), expected)
