"""Published weights of a speech model against transformers."""

import os
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor

from plait import PlaitForConditionalGeneration
from plait.modeling.checkpoints import export

from .text_models import difference

RATE = 16000  # samples a second


@pytest.fixture
def whisper() -> Path:
    root = os.environ.get("PLAIT_CHECKPOINTS")
    if root is None:
        pytest.skip("PLAIT_CHECKPOINTS names no folder of checkpoints")
    return Path(root) / "whisper-tiny.en"


def sounds() -> list[Tensor]:
    """Two seconds each of a rising tone, of something like vowels, and of noise in bursts."""
    time = torch.arange(2 * RATE) / RATE
    tone = torch.sin(2 * torch.pi * (200 + 400 * time) * time)
    loudness = (torch.sin(2 * torch.pi * 3 * time) > 0).float()
    voice = sum(torch.sin(2 * torch.pi * 120 * number * time) / number for number in range(1, 20))
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return [0.3 * tone, 0.1 * loudness * voice, 0.1 * loudness * noise]


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_whisper_hears_what_it_hears_in_transformers(whisper: Path, attention: str) -> None:
    """Float16 on disk, computed in float32: hidden states, logits, and the text of a plain `generate`."""
    options = {"dtype": torch.float32, "attn_implementation": attention}
    theirs = hf.WhisperForConditionalGeneration.from_pretrained(whisper, **options).eval()
    ours = PlaitForConditionalGeneration.from_pretrained(whisper, **options).eval()
    processor = hf.AutoProcessor.from_pretrained(whisper)
    waves = [wave.numpy() for wave in sounds()]
    features = processor(waves, sampling_rate=RATE, return_tensors="pt").input_features
    inputs = {"input_features": features, "decoder_input_ids": torch.tensor([[50257, 50362, 314, 716]] * 3)}
    with torch.no_grad():
        found, expected = ours(**inputs), theirs(**inputs)
    assert difference(found.encoder_last_hidden_state, expected.encoder_last_hidden_state) <= 1e-5
    assert difference(found.logits, expected.logits) <= 1e-5
    for beams in (1, 3):
        texts = [
            processor.batch_decode(
                each.generate(input_features=features, max_new_tokens=40, num_beams=beams), skip_special_tokens=True
            )
            for each in (ours, theirs)
        ]
        assert texts[0] == texts[1]
        assert any(text.strip() for text in texts[0])


@pytest.mark.slow
def test_whisper_comes_back_bit_equal(whisper: Path, tmp_path: Path) -> None:
    export(PlaitForConditionalGeneration.from_pretrained(whisper), tmp_path)
    theirs, ours = load_file(whisper / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
