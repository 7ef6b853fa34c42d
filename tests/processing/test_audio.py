"""Sound of any kind: what is read, at which rate, and what comes out for rows with and without it."""

import logging
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    ASTFeatureExtractor,
    AutoFeatureExtractor,
    AutoProcessor,
    PreTrainedTokenizerFast,
    ViTConfig,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from plait.configuration import PlaitAudioConfig
from plait.modeling import PlaitModel
from plait.processing import PlaitProcessor
from plait.processing.audio import read_waveform

RATE = 16000


def tone(seconds: float = 0.5, rate: int = RATE, hertz: float = 440) -> np.ndarray:
    """A sine, peak 0.5."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def file_of(samples: np.ndarray, rate: int = RATE, file_format: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, format=file_format, subtype=subtype)
    return buffer.getvalue()


@pytest.fixture
def whisper() -> WhisperFeatureExtractor:
    """Two seconds, 20 mel bins: 200 frames."""
    return WhisperFeatureExtractor(feature_size=20, chunk_length=2)


@pytest.fixture
def listener(whisper: WhisperFeatureExtractor, bert_tokenizer: PreTrainedTokenizerFast) -> PlaitProcessor:
    return PlaitProcessor(feature_extractor=whisper, tokenizer=bert_tokenizer)


def features(processor: PlaitProcessor, audio: Any, **options: Any) -> torch.Tensor:
    return processor(audio=audio, return_tensors="pt", **options)["input_features"]


def test_names_shapes_and_types(listener: PlaitProcessor) -> None:
    clips = [tone(), None, [tone(1.5), tone(0.1, hertz=880)], [None, tone()]]
    out = listener(text=["the cat"] * 4, audio=clips, sampling_rate=RATE, return_tensors="pt")
    assert {
        name: (tuple(value.shape), value.dtype) for name, value in out.items() if "a" in name[:6] or "f" in name
    } == {
        "attention_mask": ((4, 4), torch.int64),
        "input_features": ((4, 2, 20, 200), torch.float32),
        "audio_present": ((4, 2), torch.bool),
    }
    assert set(listener.model_input_names) == set(out)
    assert out["audio_present"].tolist() == [[True, False], [False, False], [True, True], [False, True]]
    assert not out["input_features"][~out["audio_present"]].any()


def test_a_clip_is_what_its_feature_extractor_makes_of_it(
    listener: PlaitProcessor, whisper: WhisperFeatureExtractor
) -> None:
    clips = [tone(), tone(1.5, hertz=880)]
    expected = whisper(clips, sampling_rate=RATE, return_tensors="pt")["input_features"]
    assert torch.allclose(features(listener, [clips], sampling_rate=RATE)[0], expected, atol=1e-6)
    alone = features(listener, clips[1], sampling_rate=RATE)
    assert torch.equal(alone[0, 0], features(listener, clips, sampling_rate=RATE)[1, 0])


def test_every_form_of_one_sound_gives_the_same(listener: PlaitProcessor, tmp_path: Path) -> None:
    whole = (tone() * 32768).astype(np.int16)
    path = tmp_path / "tone.wav"
    path.write_bytes(file_of(whole))
    floats = whole.astype(np.float32) / 32768
    forms = [
        whole,
        floats,
        floats.astype(np.float64),
        torch.tensor(whole),
        torch.tensor(floats),
        np.stack([floats, floats]),
        np.stack([floats, floats, floats], axis=1),
        floats[:, None],
        str(path),
        path,
        path.read_bytes(),
        file_of(whole, file_format="FLAC", subtype="PCM_16"),
        {"bytes": path.read_bytes(), "path": None},
        {"bytes": None, "path": str(path)},
        {"array": floats, "sampling_rate": RATE, "path": None},
        {"array": floats.tolist(), "sampling_rate": RATE},
    ]
    expected = features(listener, floats, sampling_rate=RATE)[0]
    for row in features(listener, forms, sampling_rate=RATE):
        assert torch.allclose(row, expected, atol=1e-4)


def test_integers_are_scaled_by_their_type() -> None:
    for dtype, silence, loud in ((np.int16, 0, 16384), (np.int32, 0, 2**30), (np.uint8, 128, 192)):
        sound = read_waveform(np.array([silence, loud], dtype=dtype), RATE, RATE)
        assert np.allclose(sound, [0, 0.5])


def test_another_rate_is_resampled(listener: PlaitProcessor) -> None:
    expected = tone(1)
    for rate in (8000, 44100, 48000):
        for clip in (file_of(tone(1, rate), rate), {"array": tone(1, rate), "sampling_rate": rate}):
            sound = read_waveform(clip, None, RATE)
            assert abs(len(sound) - RATE) <= 1
            middle = slice(2000, 14000)  # a filter rings at the ends
            assert np.abs(sound[middle] - expected[middle]).max() < 5e-3
    bare = features(listener, tone(1, 8000), sampling_rate=8000)
    assert torch.allclose(bare, features(listener, file_of(tone(1, 8000), 8000, subtype="FLOAT")), atol=1e-4)


def test_channels_are_averaged() -> None:
    left, right = tone(), tone(hertz=880)
    assert np.allclose(read_waveform(np.stack([left, right]), RATE, RATE), (left + right) / 2, atol=1e-6)
    stereo = file_of(np.stack([left, right], axis=1), subtype="FLOAT")
    assert np.allclose(read_waveform(stereo, None, RATE), (left + right) / 2, atol=1e-6)


def test_rows_without_any_clip_keep_the_shape_of_one(listener: PlaitProcessor) -> None:
    out = listener(audio=[None, [], [None]], return_tensors="pt")
    assert out["input_features"].shape == (3, 1, 20, 200)
    assert not out["audio_present"].any() and not out["input_features"].any()


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ([tone(), np.array([], dtype=np.float32)], "audio, row 1: an array of shape .* has no samples"),
        ([file_of(np.zeros((0, 2)))], "audio, row 0: .* has no samples"),
        ([None, np.array([0.1, np.nan])], "audio, row 1: .* NaN or infinite"),
        ([np.array([0.1, np.inf])], "audio, row 0: .* NaN or infinite"),
        ([tone() * 32768], "audio, row 0: .* values up to 163.*: pass 16-bit samples as int16"),
        ([np.zeros((2, 3, 4))], r"audio, row 0: .* is not an audio clip: pass \(samples\) or \(channels, samples\)"),
        ([np.array(["a"])], "audio, row 0: .* does not hold audio samples"),
        ([b"no sound"], "audio, row 0: 8 bytes is not a readable audio file"),
        ([{"array": None, "path": None}], "audio, row 0: .* has neither bytes nor a path"),
        (["nowhere.wav"], "audio, row 0: there is no file 'nowhere.wav'"),
        (["https://example.org/a.wav"], "audio, row 0: .* is a URL: download it first"),
        ([0.5], r"audio, row 0: 0.5 \(float\) is not an audio clip"),
        ([[[tone()]]], "audio, row 0: .* is not an audio clip"),
        (5, r"audio: 5 \(int\) is neither a clip nor a list"),
        ([], "audio is an empty list"),
        (np.zeros((2, 8)), r"audio: .* may be one clip of several channels or several clips: pass \[clip\] or list"),
    ],
)
def test_what_is_no_sound_is_a_clear_error(listener: PlaitProcessor, audio: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
        listener(audio=audio, sampling_rate=RATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"audio, row 0: .* has no sampling rate: pass sampling_rate=\.\.\."),
        ({"sampling_rate": 0}, "sampling_rate is 0: pass samples per second"),
        ({"sampling_rate": RATE, "text": ["a", "b"]}, "text has 2 rows, audio has 1 rows"),
        (
            {"sampling_rate": RATE, "audio_kwargs": {"doo_normalize": 1}},
            "audio_kwargs has no option 'doo_normalize'",
        ),
        ({"sampling_rate": RATE, "do_normalise": True}, "no option 'do_normalise'; did you mean 'do_normalize'"),
    ],
)
def test_calls_that_do_not_fit_are_a_clear_error(
    listener: PlaitProcessor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        listener(audio=tone(), **options)


def test_options_reach_the_feature_extractor(listener: PlaitProcessor, whisper: WhisperFeatureExtractor) -> None:
    expected = whisper(tone(), sampling_rate=RATE, do_normalize=True, return_tensors="pt")["input_features"][None]
    assert torch.allclose(features(listener, tone(), sampling_rate=RATE, do_normalize=True), expected, atol=1e-6)
    grouped = features(listener, tone(), sampling_rate=RATE, audio_kwargs={"do_normalize": True})
    assert torch.allclose(grouped, expected, atol=1e-6)
    padded = listener(text=["the", "the cat"], audio=[tone(), None], sampling_rate=RATE, padding="max_length")
    assert len(padded["input_ids"][0]) == 8
    assert padded["input_features"].shape == (2, 1, 20, 200)


def test_a_clip_that_is_too_long_is_cut_with_a_warning(
    listener: PlaitProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("transformers").propagate = True
    cut = features(listener, [None, tone(3)], sampling_rate=RATE)
    features(listener, tone(3), sampling_rate=RATE)
    assert torch.allclose(cut[1, 0], features(listener, tone(3)[: 2 * RATE], sampling_rate=RATE)[0, 0], atol=1e-5)
    warnings = [record.getMessage() for record in caplog.records if "truncated there" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("audio, row 1: a clip of 3.0 s is longer than the feature extractor reads, and trunc")


def test_waveforms_of_different_lengths_are_padded_and_masked() -> None:
    processor = PlaitProcessor(feature_extractor=Wav2Vec2FeatureExtractor())
    out = processor(audio=[tone(0.5), None, tone(0.25)], sampling_rate=RATE, return_tensors="pt")
    assert out["input_values"].shape == (3, 1, RATE // 2)
    assert out["input_values_mask"].sum(-1).flatten().tolist() == [RATE // 2, 0, RATE // 4]
    assert not out["input_values"][~out["input_values_mask"]].any()
    alone = processor(audio=tone(0.25), sampling_rate=RATE, return_tensors="pt")
    assert "input_values_mask" not in alone
    assert torch.equal(out["input_values"][2, 0, : RATE // 4], alone["input_values"][0, 0])


def test_other_feature_extractors_work() -> None:
    processor = PlaitProcessor(feature_extractor=ASTFeatureExtractor(max_length=30, num_mel_bins=16))
    out = processor(audio=[tone(), tone(1)], sampling_rate=RATE)
    assert out["input_values"].shape == (2, 1, 30, 16)
    assert set(out) == set(processor.model_input_names)


def test_it_survives_saving(listener: PlaitProcessor, tmp_path: Path) -> None:
    listener.save_pretrained(tmp_path)
    expected = features(listener, tone(), sampling_rate=RATE)
    for processor in (
        PlaitProcessor.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path, padding_side="left"),
        PlaitProcessor.compose(text=tmp_path, audio=tmp_path),
    ):
        assert processor.get_attributes() == ["feature_extractor", "tokenizer"]
        assert torch.equal(features(processor, tone(), sampling_rate=RATE), expected)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == listener.feature_extractor.to_dict()


def test_where_a_feature_extractor_comes_from(
    whisper: WhisperFeatureExtractor, bert_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=40, num_mel_bins=20, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(tmp_path / "whisper")
    whisper.save_pretrained(tmp_path / "whisper")
    bert_tokenizer.save_pretrained(tmp_path / "whisper")
    assert PlaitProcessor.compose(audio=whisper).feature_extractor is whisper
    model = WhisperModel.from_pretrained(tmp_path / "whisper")
    for source in (tmp_path / "whisper", model):
        assert PlaitProcessor.compose(audio=source).feature_extractor.to_dict() == whisper.to_dict()
    published = PlaitProcessor.from_pretrained(tmp_path / "whisper")
    assert published.get_attributes() == ["feature_extractor", "tokenizer"]
    (tmp_path / "bert").mkdir()
    bert_tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="audio: .* has no preprocessor_config.json for audio"):
        PlaitProcessor.compose(audio=tmp_path / "bert")
    default = PlaitProcessor.compose(audio=config).feature_extractor
    assert (default.feature_size, default.nb_max_frames) == (20, 2 * config.max_source_positions)
    for source, found in ((ViTConfig(), "bins None"), (PlaitAudioConfig(max_source_positions=12), "positions 12")):
        with pytest.raises(ValueError, match=f"audio: a {type(source).__name__} with .*{found}.* no whole seconds"):
            PlaitProcessor.compose(audio=source)
    with pytest.raises(TypeError, match="audio: a int is no feature extractor"):
        PlaitProcessor.compose(audio=5)


@pytest.mark.parametrize(("package", "clip"), [("soundfile", "file"), ("soxr", "array")])
def test_a_missing_package_is_named(
    listener: PlaitProcessor, monkeypatch: pytest.MonkeyPatch, package: str, clip: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    audio = file_of(tone()) if clip == "file" else {"array": tone(), "sampling_rate": 8000}
    with pytest.raises(ImportError, match=rf"audio, row 0: .*{package}.*pip install 'plait\[audio\]'"):
        listener(audio=[audio])


WITHOUT = """
import importlib.util, sys
hidden, find_spec = {"soundfile", "soxr", "librosa"}, importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in hidden else find_spec(name, *rest)
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ImportError(name)
sys.meta_path.insert(0, Hide())
import numpy, plait
from transformers import WhisperFeatureExtractor
processor = plait.PlaitProcessor(feature_extractor=WhisperFeatureExtractor(feature_size=20, chunk_length=1))
print(processor(audio=numpy.zeros(100), sampling_rate=16000)["input_features"].shape)
"""


def test_arrays_need_no_reader() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "(1, 1, 20, 100)"


def test_a_model_reads_what_comes_out() -> None:
    config = PlaitAudioConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_mel_bins=20, max_source_positions=50
    )
    model = PlaitModel.compose(audio=config, verbose=False)
    processor = PlaitProcessor.compose(audio=config)
    batch = processor(
        audio=[[tone(0.5), tone(1, hertz=880)], [None, tone(0.5)]], sampling_rate=RATE, return_tensors="pt"
    )
    tokens = model(**batch).last_hidden_state
    assert tokens.shape == (2, 100, 16)
    assert torch.allclose(tokens[0, :50], tokens[1, 50:], atol=1e-5)


Make = Callable[..., Any]


def test_three_modalities_in_one_call(
    bert_tokenizer: PreTrainedTokenizerFast, image_processor: Any, whisper: WhisperFeatureExtractor, picture: Make
) -> None:
    processor = PlaitProcessor.compose(text=bert_tokenizer, image=image_processor, audio=whisper)
    out = processor(
        text=["the cat", None, "the dog"],
        images=[picture(), None, None],
        audio=[None, tone(), None],
        text_target=["cat", "is", "dog"],
        sampling_rate=RATE,
        return_tensors="pt",
    )
    assert {len(value) for value in out.values()} == {3}
    assert set(out) == {*processor.model_input_names, "labels"}


@pytest.mark.parametrize(
    "extractor",
    [
        WhisperFeatureExtractor(feature_size=20, chunk_length=2),
        ASTFeatureExtractor(num_mel_bins=24, max_length=60),
        Wav2Vec2FeatureExtractor(),
    ],
    ids=lambda extractor: type(extractor).__name__,
)
def test_silence_and_clips_shorter_than_a_window_are_read(
    extractor: WhisperFeatureExtractor | ASTFeatureExtractor | Wav2Vec2FeatureExtractor,
) -> None:
    processor = PlaitProcessor(feature_extractor=extractor)
    clips = [np.zeros(RATE // 4, dtype=np.float32), tone(3 / RATE), tone(1 / RATE), tone()]
    batch = processor(audio=clips, sampling_rate=RATE, return_tensors="pt")
    name = extractor.model_input_names[0]
    assert batch[name].isfinite().all()
    alone = processor(audio=clips[1], sampling_rate=RATE, return_tensors="pt")[name][0, 0]
    assert torch.equal(batch[name][1, 0][: len(alone)], alone)
    assert batch["audio_present"].all()


def test_a_spectrogram_that_is_cut_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("transformers").propagate = True
    processor = PlaitProcessor(feature_extractor=ASTFeatureExtractor(num_mel_bins=24, max_length=60))
    processor(audio=[tone(0.55), tone(0.7)], sampling_rate=RATE)
    assert "audio, row 1: a clip of 0.7 s" in caplog.text
