"""Temperature fallback of speech in windows: a text that repeats itself, or that the model itself finds unlikely, is
drawn again at a higher temperature (Radford et al. 2022, https://arxiv.org/abs/2212.04356, section 4.5)."""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# the limits that transformers recommends for Whisper; the ratio is that of the bytes of the tokens
FALLBACK_OPTIONS = {
    "temperature": TEMPERATURES,
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
}
FALLBACK_SEED = 0


class Fallback(NamedTuple):
    """When the text of a window is drawn again.

    temperatures: in their order, 0 for the likeliest token; compression_ratio: how many times shorter the text may
    become by compression; logprob: the mean logarithm of its tokens' probabilities at least; no_speech: the probability
    of silence above which an unlikely text is none. None: not looked at.
    """

    temperatures: tuple[float, ...]
    compression_ratio: float | None = None
    logprob: float | None = None
    no_speech: float | None = None


class WindowScore(NamedTuple):
    """How likely a window's text is: the mean logarithm of its tokens' probabilities, and that of silence, 0..1."""

    logprob: float
    no_speech: float


def take_fallback(options: dict[str, Any]) -> Fallback | None:
    """Takes the options of the fallback out of those of `generate`; None if `temperature` is no list of temperatures.

    Raises ValueError for an empty list, or a temperature below 0.
    """
    temperatures = options.get("temperature")
    if not isinstance(temperatures, (list, tuple)):
        return None
    _, *limits = (options.pop(name, None) for name in FALLBACK_OPTIONS)
    if not temperatures or min(temperatures) < 0:
        raise ValueError(f"temperature is {temperatures}: expected one number of at least 0, or several")
    return Fallback(tuple(float(number) for number in temperatures), *limits)


def compute_compression_ratio(tokens: Sequence[int], vocabulary: int) -> float:
    """Computes how many times shorter the bytes of tokens become by compression (zlib), as transformers does."""
    size = int(math.log2(vocabulary) / 8) + 1
    content = b"".join(token.to_bytes(size, "little") for token in tokens)
    return len(content) / len(zlib.compress(content)) if content else 0.0


def build_sampling_options(temperature: float) -> dict[str, Any]:
    """Returns the options of `generate` for a temperature; none for 0, which decodes as usual."""
    return {"do_sample": True, "temperature": temperature, "num_beams": 1, "top_k": 0} if temperature else {}


def generate_with_fallback(
    generate: Callable[..., Tensor],
    score: Callable[[Tensor, Tensor, list[int]], WindowScore],
    fallback: Fallback,
    select: Callable[[list[int]], list[int]],
    vocabulary: int,
    windows: Tensor,
    prompts: Tensor,
) -> list[list[int]]:
    """Generates the text of each window, again at the next temperature while it fails the limits; the last text stays.

    generate: as of `generate_windows`; score: of a window, (1, mel bins, frames), its prompt, (1, tokens), and a text;
    select: the tokens of a text before its end. At temperatures above 0 each window is drawn alone and by the same
    seed, so that it gets the same text in every batch.
    """
    texts: list[list[int]] = [[] for _ in windows]
    pending = list(range(len(windows)))
    for temperature in fallback.temperatures:
        found = draw_texts(generate, windows[pending], prompts[pending], temperature)
        failed = []
        for row, tokens in zip(pending, found, strict=True):
            texts[row] = select(tokens[prompts.shape[1] :])
            one = slice(row, row + 1)
            scored = score(windows[one], prompts[one], texts[row])
            if is_silent(scored, fallback):
                texts[row] = []
            elif fails(texts[row], scored, fallback, vocabulary):
                failed.append(row)
        pending = failed
        if not pending:
            break
    return texts


def draw_texts(
    generate: Callable[..., Tensor], windows: Tensor, prompts: Tensor, temperature: float
) -> list[list[int]]:
    """Generates the tokens of each window behind its prompt at one temperature."""
    options = build_sampling_options(temperature)
    if not options:
        return generate(input_features=windows, decoder_input_ids=prompts).tolist()
    found: list[list[int]] = []
    for window, prompt in zip(windows.split(1), prompts.split(1), strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(FALLBACK_SEED)
            found += generate(input_features=window, decoder_input_ids=prompt, **options).tolist()
    return found


def is_silent(score: WindowScore, fallback: Fallback) -> bool:
    """Returns whether a window has no speech: silence is likely and its text is not."""
    if fallback.no_speech is None or fallback.logprob is None:
        return False
    return score.no_speech > fallback.no_speech and score.logprob < fallback.logprob


def fails(tokens: Sequence[int], score: WindowScore, fallback: Fallback, vocabulary: int) -> bool:
    """Returns whether a text repeats itself or is unlikely."""
    most = math.inf if fallback.compression_ratio is None else fallback.compression_ratio
    least = -math.inf if fallback.logprob is None else fallback.logprob
    return score.logprob < least or compute_compression_ratio(tokens, vocabulary) > most


def compute_window_score(logits: Tensor, tokens: Sequence[int], prompt: int, no_speech: int | None) -> WindowScore:
    """Computes how likely a text is.

    logits: (length, vocabulary) at each position of prompt and text; tokens: of the text, with its end; prompt: the
    number of the prompt's tokens; no_speech: the token of silence, which is read at the first position.
    """
    behind = logits[prompt - 1 : prompt - 1 + len(tokens)].float().log_softmax(-1)
    chosen = behind.gather(-1, torch.tensor(list(tokens), device=logits.device).unsqueeze(-1))
    silence = 0.0 if no_speech is None else float(logits[0].float().softmax(-1)[no_speech])
    return WindowScore(float(chosen.mean()), silence)
