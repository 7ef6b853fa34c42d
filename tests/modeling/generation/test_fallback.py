"""Temperature fallback of windows of speech."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from plait.modeling.generation.fallback import (
    FALLBACK_OPTIONS,
    TEMPERATURES,
    Fallback,
    WindowScore,
    compute_compression_ratio,
    compute_window_score,
    generate_with_fallback,
    take_fallback,
)

VOCABULARY, PROMPT = 250, 2
LOOP, SPEECH = [7, 8] * 60, list(range(60, 120))


def run(
    written: dict[float, list[int]], scores: dict[float, WindowScore], fallback: Fallback
) -> tuple[Any, list[float]]:
    """The text of one window by a model that writes so at each temperature, and the temperatures it was asked at."""
    asked: list[float] = []

    def generate(input_features: Tensor, decoder_input_ids: Tensor, temperature: float = 0.0, **options: Any) -> Tensor:
        asked.append(temperature)
        assert options.get("do_sample", False) == (temperature > 0)
        return torch.cat([decoder_input_ids, torch.tensor([written[temperature]] * len(decoder_input_ids))], dim=1)

    def score(window: Tensor, prompt: Tensor, text: list[int]) -> WindowScore:
        return scores[asked[-1]]

    make = partial(generate_with_fallback, generate, score, fallback, list, VOCABULARY)
    return make(torch.zeros(1, 8, 10), torch.zeros(1, PROMPT, dtype=torch.long))[0], asked


@pytest.mark.parametrize("good", [*TEMPERATURES, None])
@pytest.mark.parametrize("fault", ["repeats", "unlikely"])
def test_the_first_temperature_whose_text_passes_is_kept(good: float | None, fault: str) -> None:
    is_good = {temperature: good is not None and temperature >= good for temperature in TEMPERATURES}
    bad = LOOP if fault == "repeats" else SPEECH
    written = {temperature: SPEECH if fine else bad for temperature, fine in is_good.items()}
    low = -5.0 if fault == "unlikely" else -0.1
    scores = {temperature: WindowScore(-0.1 if fine else low, 0.0) for temperature, fine in is_good.items()}
    text, asked = run(written, scores, Fallback(TEMPERATURES, 1.35, -1.0, 0.6))
    assert text == (SPEECH if good is not None else bad)
    assert asked == list(itertools.takewhile(lambda t: good is None or t <= good, TEMPERATURES))


@pytest.mark.parametrize(
    ("silence", "logprob", "is_empty"), [(0.9, -2.0, True), (0.9, -0.5, False), (0.1, -0.5, False)]
)
def test_an_unlikely_text_of_likely_silence_is_no_text(silence: float, logprob: float, is_empty: bool) -> None:
    text, asked = run({0.0: SPEECH}, {0.0: WindowScore(logprob, silence)}, Fallback((0.0,), 1.35, -1.0, 0.6))
    assert text == ([] if is_empty else SPEECH) and asked == [0.0]


def test_options_of_the_fallback_are_taken_out() -> None:
    options: dict[str, Any] = {**FALLBACK_OPTIONS, "max_new_tokens": 3}
    assert take_fallback(options) == Fallback(TEMPERATURES, 1.35, -1.0, 0.6) and options == {"max_new_tokens": 3}
    usual: dict[str, Any] = {"temperature": 0.7, "logprob_threshold": -1.0}
    assert take_fallback(usual) is None and list(usual) == ["temperature", "logprob_threshold"]  # left to transformers
    for wrong in ([], [0.0, -0.1]):
        with pytest.raises(ValueError, match="expected one number of at least 0"):
            take_fallback({"temperature": wrong})


def test_a_loop_is_compressed_more_than_speech() -> None:
    """As transformers measures it, by its own function."""
    from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

    theirs: Any = WhisperGenerationMixin
    for tokens in (LOOP, SPEECH, [3]):
        own = compute_compression_ratio(tokens, VOCABULARY)
        assert own == theirs._retrieve_compression_ratio(torch.tensor(tokens), VOCABULARY)
    assert compute_compression_ratio(LOOP, VOCABULARY) > 1.35 > compute_compression_ratio(SPEECH, VOCABULARY)
    assert compute_compression_ratio([], VOCABULARY) == 0


def test_the_score_is_the_mean_logarithm_of_the_tokens_probabilities() -> None:
    torch.manual_seed(0)
    text: Sequence[int] = [4, 1, 3]
    logits = torch.randn(PROMPT + len(text), 6)
    found = compute_window_score(logits, text, PROMPT, 5)
    chances = logits.softmax(-1)
    expected = sum(chances[PROMPT - 1 + place, token].log() for place, token in enumerate(text)) / len(text)
    assert found.logprob == pytest.approx(float(expected), abs=1e-6)
    assert found.no_speech == pytest.approx(float(chances[0, 5]), abs=1e-6)
