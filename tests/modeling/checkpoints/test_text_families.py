"""Every family of text models, encoders and decoders, read from transformers' files, against transformers."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import ACT2FN

from plait import PlaitForQuestionAnswering
from plait.configuration import PlaitDecoderConfig, PlaitTextConfig
from plait.modeling.checkpoints import write_component

from .text_models import (
    CAUSAL,
    CLASSIFIERS,
    GENERATORS,
    LEFT_OUT,
    MASKED,
    MODELS,
    QUESTIONS,
    UNUSED,
    Saved,
    assert_same,
    difference,
    inputs_of,
    read,
    run,
    save,
    tower_of,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Each model once."""
    return cache(lambda name: save(name, tmp_path_factory.mktemp(name)))


def assert_parity(ours: dict[str, Tensor], theirs: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """1e-5 of transformers' result, and an error to its result in float64 of at most twice its own."""
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape
        assert difference(ours[name], tensor) <= 1e-5, name
        floor = torch.finfo(torch.float32).eps
        assert difference(ours[name], exact[name]) <= 2 * max(difference(tensor, exact[name]), floor), name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("name", "side"),
    [(name, "right") for name in MODELS] + [(name, "left") for name in CAUSAL if name not in CLASSIFIERS],
)
def test_tower_matches_transformers(saved: Callable[[str], Saved], name: str, side: str, attention: str) -> None:
    model, folder = saved(name)
    model.set_attn_implementation(attention if model._supports_sdpa else "eager")
    inputs = inputs_of(name, side)
    theirs = run(model.base_model, inputs, output_hidden_states=True)
    if model._supports_sdpa:  # transformers' eager Llama takes its softmax in float32
        model.set_attn_implementation("sdpa")
    exact = run(model.double().base_model, inputs, output_hidden_states=True)
    model.float()
    tower = tower_of(read(folder), attention)
    assert_parity(run(tower, inputs, output_hidden_states=True), theirs, exact)
    returned = {key: theirs[key] for key in ("last_hidden_state", "pooler_output") if key in theirs}
    for packing in (True, False):
        tower.config.packing = packing
        ours = run(tower, inputs)
        assert_parity(ours, returned, exact)
    assert ("pooler_output" in ours) == ("pooler_output" in theirs or name in CLASSIFIERS)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_matches_transformers(saved: Callable[[str], Saved], name: str) -> None:
    model, folder = saved(name)
    found, inputs = read(folder), inputs_of(name)
    assert {head.split(".")[0] for head in found.heads} == {"classifier"}
    with torch.no_grad():
        pooled = tower_of(found)(**inputs).pooler_output
        logits = F.linear(pooled, found.heads["classifier.weight"], found.heads.get("classifier.bias"))
        assert difference(logits, model(**inputs).logits) <= 1e-5


@pytest.mark.parametrize("name", MASKED)
def test_masked_lm_head_matches_transformers(saved: Callable[[str], Saved], name: str) -> None:
    model, folder = saved(name)
    component, inputs = read(folder), inputs_of(name)
    config, heads = component.config, component.heads
    with torch.no_grad():
        x = tower_of(component)(**inputs).last_hidden_state
        x = ACT2FN[config.mlm_act](F.linear(x, heads["mlm_head.dense.weight"], heads["mlm_head.dense.bias"]))
        x = F.layer_norm(x, x.shape[-1:], heads["mlm_head.norm.weight"], heads["mlm_head.norm.bias"], config.norm_eps)
        ours = F.linear(x, heads["lm_head.weight"], heads["lm_head.bias"])
        output = model(**inputs)
    theirs = output.prediction_logits if name == "bert-pretraining" else output.logits
    mask = inputs["attention_mask"][..., None]
    assert difference(ours * mask, theirs * mask) <= 1e-5


@pytest.mark.parametrize("name", QUESTIONS)
def test_question_answering_matches_transformers(saved: Callable[[str], Saved], name: str) -> None:
    model, folder = saved(name)
    ours, report = PlaitForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = inputs_of(name)
    inputs["start_positions"], inputs["end_positions"] = torch.tensor([2, 5, 1]), torch.tensor([6, 7, 3])
    mask = inputs["attention_mask"]
    with torch.no_grad():
        found, expected = ours(**inputs), model(**inputs)
    for key in ("start_logits", "end_logits"):
        assert difference(found[key] * mask, expected[key] * mask) <= 1e-5
    whole = {key: value[1:2] for key, value in inputs.items()}  # a row without padding: they count padding in the loss
    with torch.no_grad():
        torch.testing.assert_close(ours(**whole).loss, model(**whole).loss)


@pytest.mark.parametrize("name", GENERATORS)
def test_language_model_head_matches_transformers(saved: Callable[[str], Saved], name: str) -> None:
    model, folder = saved(name)
    found, inputs = read(folder), inputs_of(name)
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        ours = F.linear(tower_of(found)(**inputs).last_hidden_state, found.heads["lm_head.weight"])
        assert difference(ours * mask, model(**inputs).logits * mask) <= 1e-5


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_checkpoint_read_alone_is_a_decoder(saved: Callable[[str], Saved], name: str) -> None:
    assert type(read(saved(name).folder).config) is PlaitDecoderConfig
    assert type(read(saved(name).folder, "text").config) is PlaitTextConfig


@pytest.mark.parametrize("name", MODELS)
def test_export_is_bit_equal_and_transformers_reads_it(
    saved: Callable[[str], Saved], name: str, tmp_path: Path
) -> None:
    model, folder = saved(name)
    write_component(read(folder), tmp_path)
    theirs, ours = saved(name).file(), load_file(tmp_path / "model.safetensors")
    assert len(theirs) - len(ours) == LEFT_OUT.get(name, 0)
    bare = {key.removeprefix(f"{model.base_model_prefix}."): tensor for key, tensor in theirs.items()}
    for key, tensor in ours.items():
        source = theirs[key] if name not in LEFT_OUT else bare[key.removeprefix(f"{model.base_model_prefix}.")]
        assert torch.equal(tensor, source) or (name, key) == UNUSED, key
    kind = type(model) if name not in LEFT_OUT else type(model.base_model)
    again, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not [key for key in report["missing_keys"] if "pooler" not in key or name in CLASSIFIERS]
    inputs = inputs_of(name)
    with torch.no_grad():
        expected, found = (run(each.base_model, inputs) for each in (model, again.eval()))
        assert torch.equal(found["last_hidden_state"], expected["last_hidden_state"])
        if name in QUESTIONS:
            assert torch.equal(again(**inputs).start_logits, model(**inputs).start_logits)
            return
        if name not in LEFT_OUT and name not in (*MASKED, *GENERATORS, *CLASSIFIERS):
            return
        assert name in LEFT_OUT or torch.equal(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("name", ["bert-mlm", "gpt2-lm", "llama", "electra-classifier"])
def test_shards_are_read_like_one_file(saved: Callable[[str], Saved], name: str, tmp_path: Path) -> None:
    model, folder = saved(name)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same(read(tmp_path), read(folder))


@pytest.mark.parametrize("name", ["bert", "roberta", "electra-narrow", "gpt2", "llama"])
def test_embedded_tokens_match_transformers(saved: Callable[[str], Saved], name: str) -> None:
    model, folder = saved(name)
    inputs = inputs_of(name)
    inputs = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]).detach()} | {
        "attention_mask": inputs["attention_mask"]
    }
    assert_parity(run(tower_of(read(folder)), inputs), run(model, inputs), run(model, inputs))


@pytest.mark.parametrize(("name", "positions"), [("bert", 24), ("roberta", 22), ("gpt2", 24)])
def test_all_positions_may_be_used_and_no_more(saved: Callable[[str], Saved], name: str, positions: int) -> None:
    model, folder = saved(name)
    tower = tower_of(read(folder))
    ids = torch.randint(5, 60, (1, positions + 1))
    with torch.no_grad():
        ours, theirs = (each(ids[:, :-1]).last_hidden_state for each in (tower, model))
    assert difference(ours, theirs) <= 1e-5
    with pytest.raises(ValueError, match=f"{positions + 1} tokens, .* {positions} positions"):
        tower(ids)
