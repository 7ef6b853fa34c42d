"""Clips longer than the audio tower reads: windows give what transformers' Whisper gives, in every way of calling."""

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from plait import PlaitForConditionalGeneration, PlaitProcessor, pipeline
from plait.modeling.generation.fallback import FALLBACK_OPTIONS
from plait.modeling.generation.long_audio import select_finished_segments
from plait.modeling.generation.whisper_prompt import build_decoder_prompt
from plait.training.data.tokenizer import train_tokenizer
from plait.training.recipes.schema import Recipe
from plait.training.runs.predict import build_option_rows, predict
from plait.training.tasks.registry import find_task

WORDS, START, END, LANGUAGES, TIMELESS = 300, 300, 301, {"<|en|>": 302, "<|de|>": 303}, 304
WINDOW = 16000  # samples of one second, which is a window of the tiny model
MODELS = ("english", "multilingual", "timeless")


def save_whisper(folder: Path, kind: str) -> Path:
    torch.manual_seed(3)
    sizes: dict[str, Any] = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
    }
    tokens: dict[str, Any] = {
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
        "decoder_start_token_id": START,
    }
    model = hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(
            vocab_size=TIMELESS + 52,
            num_mel_bins=8,
            max_source_positions=50,
            max_target_positions=40,
            **sizes,
            **tokens,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )  # fmt: skip
    )
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:
            nn.init.normal_(parameter, std=0.5)
    config: Any = hf.GenerationConfig(**tokens, max_new_tokens=14, is_multilingual=kind == "multilingual")
    if kind != "timeless":
        config.update(no_timestamps_token_id=TIMELESS, return_timestamps=False)
        config.no_timestamps_token_id, config.return_timestamps = TIMELESS, False
    if kind == "multilingual":
        config.lang_to_id, config.task_to_id = LANGUAGES, {"transcribe": 299, "translate": 298}
    model.generation_config = config
    model.save_pretrained(folder)
    hf.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    train_tokenizer(["a red square", "it is blue"], 40, vocab_size=WORDS, min_frequency=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_whisper(tmp_path_factory.mktemp(kind), kind) for kind in MODELS}


def make_clips() -> list[np.ndarray]:
    """Clips of 3.3, 0.6, 2.0 and 1.2 seconds: of one window and of several."""
    drawn = np.random.default_rng(0)
    return [drawn.standard_normal(int(seconds * WINDOW)).astype(np.float32) for seconds in (3.3, 0.6, 2.0, 1.2)]


def read(folder: Path) -> tuple[Any, PlaitProcessor]:
    return PlaitForConditionalGeneration.from_pretrained(folder).eval(), PlaitProcessor.from_pretrained(folder)


def encode(processor: PlaitProcessor, clips: list[Any]) -> Any:
    return processor(audio=clips, sampling_rate=16000, audio_kwargs={"truncation": False}, return_tensors="pt")


def strip(tokens: Tensor) -> list[int]:
    return [token for token in tokens.tolist() if token != END]


@pytest.mark.parametrize("kind", ["english", "multilingual"])
def test_windows_give_the_tokens_of_transformers(folders: dict[str, Path], kind: str) -> None:
    """Each long clip, with its timestamps, greedily and by beams; without them the same tokens but for these."""
    model, processor = read(folders[kind])
    theirs: Any = hf.WhisperForConditionalGeneration.from_pretrained(folders[kind]).eval()
    for clip in (clip for clip in make_clips() if len(clip) > WINDOW):
        inputs = encode(processor, [clip])
        features = inputs["input_features"][:, 0]
        for options in ({}, {"num_beams": 2}, *([{"language": "de"}] if kind == "multilingual" else [])):
            expected = theirs.generate(
                features, attention_mask=torch.ones(features[:, 0].shape), return_timestamps=True, **options
            )
            found = model.generate(**inputs, return_timestamps=True, **options)
            assert torch.equal(found, expected)
            words = model.generate(**inputs, **options)
            assert strip(words[0]) == [token for token in strip(expected[0]) if token <= TIMELESS]
        assert len(expected[0]) > 14  # more than one window


@pytest.mark.parametrize("kind", MODELS)
def test_a_row_of_a_batch_is_the_row_alone(folders: dict[str, Path], kind: str) -> None:
    """Rows of any length, with a row without a clip; a clip of one window gives what it gives by itself, untouched."""
    model, processor = read(folders[kind])
    clips = [*make_clips(), None]
    whole = model.generate(**encode(processor, clips))
    alone = [model.generate(**encode(processor, [clip])) for clip in clips[:4]]
    prompt = {"english": 2, "multilingual": 3, "timeless": 1}[kind]
    for row, single in zip(whole, alone, strict=False):
        own = single[0] if len(single[0]) > 20 or row is not whole[1] else single[0, prompt:]
        assert strip(row) in (strip(own), strip(own[prompt:]))
    assert strip(whole[4]) == []
    short = processor(audio=[clips[1]], sampling_rate=16000, return_tensors="pt")
    assert torch.equal(short["input_features"], encode(processor, [clips[1]])["input_features"])
    assert strip(model.generate(**short)[0, prompt:]) == strip(whole[1])


def test_without_timestamps_the_windows_are_joined(folders: dict[str, Path]) -> None:
    model, processor = read(folders["timeless"])
    clip = make_clips()[0]
    features = encode(processor, [clip])["input_features"][:, 0]
    joined: list[int] = []
    for start in range(0, features.shape[-1], 100):
        part = features[..., start : start + 100]
        part = nn.functional.pad(part, (0, 100 - part.shape[-1]))
        joined += strip(model.generate(input_features=part)[0, 1:])
    assert strip(model.generate(input_features=features)[0]) == joined and len(joined) > 14


def test_pipeline_and_predict_read_the_whole_clip(folders: dict[str, Path], tmp_path: Path) -> None:
    """Their texts are those of generate on all windows, and differ from those of the first window."""
    clip = make_clips()[0] / 5
    file = tmp_path / "clip.wav"
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes((clip * 32767).clip(-32767, 32767).astype(np.int16).tobytes())
    model, processor = read(folders["english"])
    inputs = processor(audio=[str(file)], audio_kwargs={"truncation": False}, return_tensors="pt")
    plain, expected = (
        processor.batch_decode(model.generate(**inputs, **options), skip_special_tokens=True)[0].strip()
        for options in ({}, FALLBACK_OPTIONS)
    )
    recognise = pipeline("automatic-speech-recognition", model=str(folders["english"]), device="cpu")
    assert recognise(str(file), temperature_fallback=False) == {"text": plain}
    assert recognise(str(file)) == {"text": expected}
    assert recognise([str(file), str(file)]) == [{"text": expected}] * 2
    task = find_task("generation")
    rows = build_option_rows(task, {"audio": [str(file)]})
    answers = list(predict(str(folders["english"]), rows, Recipe(task="generation")))
    assert [answer["generated_text"] for answer in answers] == [expected]
    cut = processor(audio=[str(file)], return_tensors="pt")
    assert processor.batch_decode(model.generate(**cut), skip_special_tokens=True)[0].strip() != expected
    with pytest.raises(ValueError, match="return_timestamps=True"):
        recognise(str(file), return_timestamps=True)


def test_options_of_one_window_are_errors(folders: dict[str, Path]) -> None:
    model, processor = read(folders["english"])
    inputs = encode(processor, make_clips()[:1])
    for options in ({"return_dict_in_generate": True}, {"num_return_sequences": 2, "num_beams": 2}):
        with pytest.raises(ValueError, match=next(iter(options))):
            model.generate(**inputs, **options)
    with pytest.raises(ValueError, match="decoder_input_ids"):
        model.generate(**inputs, decoder_input_ids=torch.tensor([[START, 5]]))
    with pytest.raises(ValueError, match="return_timestamps='word'"):
        model.generate(**inputs, return_timestamps="word")
    several = processor(
        audio=[make_clips()[:2]], sampling_rate=16000, audio_kwargs={"truncation": False}, return_tensors="pt"
    )
    with pytest.raises(ValueError, match="reads 1 .. 100"):
        model.generate(**several)


def test_a_window_keeps_its_finished_segments() -> None:
    """An unfinished segment is read again; a single timestamp at the end, or none, keeps the window whole."""
    assert select_finished_segments([50, 1, 60, 60, 2], 50, 100) == ([50, 1, 60, 60], 20)
    assert select_finished_segments([50, 1, 60, 60, 2, 70], 50, 100) == ([50, 1, 60, 60, 2, 70], 100)
    assert select_finished_segments([50, 1, 2], 50, 100) == ([50, 1, 2], 100)
    assert select_finished_segments([50, 1, 60, 60], 50, 100) == ([50, 1, 60, 60], 20)
    assert select_finished_segments([1, 50, 50], 50, 90) == ([1, 50, 50], 90)  # else it would never end
    assert select_finished_segments([1, 60, 60, 2], None, 90) == ([1, 60, 60, 2], 90)


@pytest.mark.parametrize(
    "options", [{"task": "translate"}, {"language": "de"}, {"language": "de", "task": "translate"}]
)
def test_a_model_of_one_language_takes_neither_language_nor_task(options: dict[str, str]) -> None:
    known = {"is_multilingual": False, "lang_to_id": {"<|de|>": 5}, "decoder_start_token_id": 1}
    assert build_decoder_prompt({**known, "lang_to_id": None}.get, 2, lambda tokens: [5, 5]) is None
    with pytest.raises(ValueError, match="this model transcribes one language only"):
        build_decoder_prompt({**known, **options}.get, 2, lambda tokens: [5, 5])


def test_the_fallback_is_the_same_every_time_and_in_every_batch(folders: dict[str, Path]) -> None:
    """Where no text fails, nothing changes; where all do, each window is drawn by its own seed."""
    model = PlaitForConditionalGeneration.from_pretrained(folders["english"])
    processor = PlaitProcessor.from_pretrained(folders["english"])

    def read(clips: list[np.ndarray], **options: Any) -> list[list[int]]:
        inputs = processor(audio=clips, sampling_rate=WINDOW, audio_kwargs={"truncation": False}, return_tensors="pt")
        found = model.generate(**inputs, max_new_tokens=8, **options).tolist()
        return [[token for token in row if token != END] for row in found]

    long = [clip for clip in make_clips() if len(clip) > WINDOW]
    usual = read(long)
    assert read(long, temperature=(0.0, 1.0), compression_ratio_threshold=1e9, logprob_threshold=-1e9) == usual
    failing: dict[str, Any] = {"temperature": (0.0, 1.0), "compression_ratio_threshold": -1.0}
    drawn = read(long, **failing)
    torch.manual_seed(5)  # whatever the state of the generator
    assert read(long, **failing) == drawn != usual
    assert read(long[1:], **failing) == drawn[1:]
